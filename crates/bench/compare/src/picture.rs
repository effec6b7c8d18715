//! Percentages as lines, in panels side by side: an SVG.

use std::{fmt::Write, fs, path::Path};

/// A panel's size and the room around it for axes.
const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 260.0;
const MARGIN: f64 = 50.0;
const COLOURS: [&str; 8] = ["#d6336c", "#f59f00", "#1c7ed6", "#2b8a3e", "#868e96", "#7048e8", "#0c8599", "#5c940d"];

/// Lines over one axis.
pub(crate) struct Panel {
    pub(crate) title: String,
    /// Where the axis has which mark, from its left end to its right one.
    pub(crate) ticks: Vec<(f64, String)>,
    pub(crate) lines: Vec<Line>,
}

pub(crate) struct Line {
    /// The same one has the same colour in all panels.
    pub(crate) name: &'static str,
    /// In percent.
    pub(crate) points: Vec<(f64, f64)>,
}

/// Writes the picture, with so many panels beside each other.
pub(crate) fn draw(path: &Path, panels: &[Panel], columns: usize) -> Result<(), Box<dyn std::error::Error>> {
    let columns = panels.len().clamp(1, columns);
    let rows = panels.len().div_ceil(columns);
    let legend = 40.0;
    let (width, height) = (columns as f64 * (WIDTH + MARGIN) + MARGIN, rows as f64 * (HEIGHT + MARGIN * 1.5) + legend);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let mut names: Vec<&str> = Vec::new();
    for line in panels.iter().flat_map(|panel| &panel.lines) {
        if !names.contains(&line.name) {
            names.push(line.name);
        }
    }
    for (at, panel) in panels.iter().enumerate() {
        let left = MARGIN + (at % columns) as f64 * (WIDTH + MARGIN);
        let top = MARGIN / 2.0 + (at / columns) as f64 * (HEIGHT + MARGIN * 1.5);
        draw_panel(&mut svg, left, top, panel, &names)?;
    }
    for (at, name) in names.iter().enumerate() {
        let left = MARGIN + at as f64 * (width - MARGIN) / names.len() as f64;
        writeln!(svg, "<text x=\"{left:.0}\" y=\"{:.0}\" fill=\"{}\">● {name}</text>", height - 10.0, COLOURS[at % 8])?;
    }
    svg.push_str("</svg>\n");
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, svg)?;
    Ok(())
}

fn draw_panel(svg: &mut String, left: f64, top: f64, panel: &Panel, names: &[&str]) -> Result<(), std::fmt::Error> {
    let Panel { title, ticks, lines } = panel;
    let (first, last) = (ticks.first().map_or(0.0, |tick| tick.0), ticks.last().map_or(1.0, |tick| tick.0));
    let values = || lines.iter().flat_map(|line| &line.points).map(|point| point.1);
    let (least, most) = (values().fold(100.0, f64::min).floor(), values().fold(0.0, f64::max).ceil());
    let x = |at: f64| left + (at - first) * WIDTH / (last - first).max(f64::MIN_POSITIVE);
    let y = |value: f64| top + HEIGHT - (value - least) / (most - least).max(1.0) * HEIGHT;
    writeln!(
        svg,
        "<rect x=\"{left}\" y=\"{top}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"none\" stroke=\"#adb5bd\"/>\n\
         <text x=\"{}\" y=\"{}\" font-weight=\"bold\">{title}</text>",
        left + 6.0,
        top + 16.0
    )?;
    for value in [least, f64::midpoint(least, most), most] {
        writeln!(svg, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value:.0}</text>", left - 5.0, y(value) + 4.0)?;
    }
    for (at, mark) in ticks {
        let under = top + HEIGHT + 15.0;
        writeln!(svg, "<text x=\"{:.1}\" y=\"{under}\" text-anchor=\"middle\">{mark}</text>", x(*at))?;
    }
    for Line { name, points } in lines {
        let points: Vec<String> = points.iter().map(|(at, value)| format!("{:.1},{:.1}", x(*at), y(*value))).collect();
        let weight = if name.starts_with("larder") { 2.5 } else { 1.2 };
        let colour = names.iter().position(|its| its == name).unwrap_or_default();
        writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{weight}\"/>",
            points.join(" "),
            COLOURS[colour % COLOURS.len()]
        )?;
    }
    Ok(())
}
