//! Hit ratios over capacity as an SVG, a panel a trace.

use std::{collections::BTreeMap, fmt::Write, fs, path::Path};

use crate::hit_ratio::Row;

/// A panel's size and the room around it for axes.
const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 260.0;
const MARGIN: f64 = 50.0;
const COLOURS: [&str; 8] = ["#d6336c", "#f59f00", "#1c7ed6", "#2b8a3e", "#868e96", "#7048e8", "#0c8599", "#5c940d"];

/// Writes the picture, if there is more than one capacity to draw a line through.
pub(crate) fn hit_ratios(path: &Path, rows: &[Row]) -> Result<(), Box<dyn std::error::Error>> {
    let mut panels: Vec<(&str, Vec<&Row>)> = Vec::new();
    for row in rows {
        match panels.iter_mut().find(|(trace, _)| *trace == row.trace) {
            Some((_, panel)) => panel.push(row),
            None => panels.push((&row.trace, vec![row])),
        }
    }
    let (columns, lines) = (panels.len().clamp(1, 2), panels.len().div_ceil(2));
    let legend = 40.0;
    let (width, height) = (columns as f64 * (WIDTH + MARGIN) + MARGIN, lines as f64 * (HEIGHT + MARGIN * 1.5) + legend);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let mut names: Vec<&str> = Vec::new();
    for row in rows {
        if !names.contains(&row.name) {
            names.push(row.name);
        }
    }
    for (at, (trace, panel)) in panels.iter().enumerate() {
        let left = MARGIN + (at % 2) as f64 * (WIDTH + MARGIN);
        let top = MARGIN / 2.0 + (at / 2) as f64 * (HEIGHT + MARGIN * 1.5);
        draw_panel(&mut svg, left, top, trace, panel, &names)?;
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

fn draw_panel(
    svg: &mut String,
    left: f64,
    top: f64,
    trace: &str,
    panel: &[&Row],
    names: &[&str],
) -> Result<(), std::fmt::Error> {
    let capacities: BTreeMap<u64, usize> =
        panel.iter().map(|row| row.capacity).collect::<std::collections::BTreeSet<_>>().into_iter().zip(0..).collect();
    let values = || panel.iter().map(|row| row.value);
    let (least, most) = (values().fold(100.0, f64::min).floor(), values().fold(0.0, f64::max).ceil());
    let x = |capacity: u64| left + capacities[&capacity] as f64 * WIDTH / (capacities.len() - 1).max(1) as f64;
    let y = |value: f64| top + HEIGHT - (value - least) / (most - least).max(1.0) * HEIGHT;
    writeln!(
        svg,
        "<rect x=\"{left}\" y=\"{top}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"none\" stroke=\"#adb5bd\"/>\n\
         <text x=\"{}\" y=\"{}\" font-weight=\"bold\">{trace}: hits in %, by capacity in entries</text>",
        left + 6.0,
        top + 16.0
    )?;
    for value in [least, f64::midpoint(least, most), most] {
        writeln!(svg, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value:.0}</text>", left - 5.0, y(value) + 4.0)?;
    }
    for &capacity in capacities.keys() {
        let under = top + HEIGHT + 15.0;
        writeln!(svg, "<text x=\"{:.1}\" y=\"{under}\" text-anchor=\"middle\">{capacity}</text>", x(capacity))?;
    }
    for (at, name) in names.iter().enumerate() {
        let points: Vec<String> = panel
            .iter()
            .filter(|row| row.name == *name)
            .map(|row| format!("{:.1},{:.1}", x(row.capacity), y(row.value)))
            .collect();
        let weight = if name.starts_with("larder") { 2.5 } else { 1.2 };
        writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{weight}\"/>",
            points.join(" "),
            COLOURS[at % COLOURS.len()]
        )?;
    }
    Ok(())
}
