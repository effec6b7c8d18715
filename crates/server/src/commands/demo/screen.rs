//! What the demonstration shows while it runs: a table that is drawn anew in a terminal, plain lines elsewhere.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use larder_bench::Report;
use ratatui::{
    DefaultTerminal, Frame, TerminalOptions, Viewport,
    layout::{Constraint, Layout},
    style::{Style, Stylize},
    widgets::{Gauge, Row, Table},
};

use super::cluster::{Counts, NodeCounts};
use crate::commands::Failure;

/// Nodes beyond this many are left out of the table, to leave room for the rest.
const ROWS_MAX: usize = 16;

/// Lines around the nodes' rows: headings, sums, a gap, the bar.
const LINES_AROUND: u16 = 5;

/// Where the demonstration is shown.
pub(super) struct Screen {
    terminal: Option<DefaultTerminal>,
    live: bool,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self { terminal: None, live: io::stdout().is_terminal() }
    }

    pub(super) fn is_live(&self) -> bool {
        self.live
    }

    #[expect(clippy::print_stdout, reason = "what is shown is what the command is for")]
    pub(super) fn say(&self, text: &str) {
        println!("{text}\n");
    }

    /// Shows how things stand. Rates are over `since_last`, latencies since the start.
    pub(super) fn show(
        &mut self,
        counts: &Counts,
        last: &Counts,
        since_last: Duration,
        report: &Report,
        elapsed: Duration,
        duration: Duration,
    ) -> Result<(), Failure> {
        let moment = Moment { counts, last, since_last, report, elapsed, duration };
        if self.live {
            return self
                .draw(&moment)
                .map_err(|error| Failure::failed(format!("the terminal can't be drawn on: {error}")));
        }
        self.print(&moment);
        Ok(())
    }

    /// Leaves the table as it is and goes below it.
    pub(super) fn finish(&mut self) {
        if self.terminal.take().is_some() {
            ratatui::restore();
        }
    }

    fn draw(&mut self, moment: &Moment<'_>) -> io::Result<()> {
        let terminal = match &mut self.terminal {
            Some(terminal) => terminal,
            none => {
                let rows = u16::try_from(moment.counts.nodes.len().min(ROWS_MAX)).unwrap_or(u16::MAX);
                let viewport = Viewport::Inline(rows + LINES_AROUND);
                none.insert(ratatui::try_init_with_options(TerminalOptions { viewport })?)
            }
        };
        terminal.draw(|frame| moment.render(frame)).map(drop)
    }

    #[expect(clippy::print_stdout, reason = "what is shown is what the command is for")]
    fn print(&self, moment: &Moment<'_>) {
        let Moment { counts, report, elapsed, .. } = moment;
        let latency = &report.latency;
        let sum = |of: fn(&NodeCounts) -> u64| counts.nodes.iter().map(of).sum::<u64>();
        println!(
            "{:>4.0} s  {:>8.0} gets/s  hits {:>5.1}%  origin loads {:>6}  deduplicated {:>6}  p50 {:>6.0} µs  p99 {:>7.0} µs",
            elapsed.as_secs_f64(),
            moment.rate(|node| node.gets),
            counts.hit_percent(),
            counts.origin_requests,
            sum(|node| node.deduped),
            latency.p50_us,
            latency.p99_us,
        );
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.finish();
    }
}

/// How things stand.
struct Moment<'a> {
    counts: &'a Counts,
    last: &'a Counts,
    since_last: Duration,
    report: &'a Report,
    elapsed: Duration,
    duration: Duration,
}

impl Moment<'_> {
    /// How fast a number of all nodes grows, a second.
    fn rate(&self, of: fn(&NodeCounts) -> u64) -> f64 {
        let sum = |counts: &Counts| counts.nodes.iter().map(of).sum::<u64>();
        (sum(self.counts) - sum(self.last)) as f64 / self.since_last.as_secs_f64().max(1e-3)
    }

    fn render(&self, frame: &mut Frame<'_>) {
        let nodes = self.counts.nodes.len().min(ROWS_MAX);
        let heights = [Constraint::Length(nodes as u16 + 2), Constraint::Length(1), Constraint::Length(1)];
        let [table, line, bar] = Layout::vertical(heights).areas(frame.area());
        frame.render_widget(self.table(nodes), table);
        let latency = &self.report.latency;
        let text = format!(
            "{:.0} gets/s   p50 {:.0} µs   p99 {:.0} µs   origin loads {}   {:.2} for 1,000 gets",
            self.rate(|node| node.gets),
            latency.p50_us,
            latency.p99_us,
            self.counts.origin_requests,
            self.counts.origin_requests as f64 * 1e3 / self.report.gets.max(1) as f64,
        );
        frame.render_widget(text.bold(), line);
        let part = (self.elapsed.as_secs_f64() / self.duration.as_secs_f64()).clamp(0.0, 1.0);
        let label = format!("{:.0} of {:.0} s", self.elapsed.as_secs_f64(), self.duration.as_secs_f64());
        frame.render_widget(Gauge::default().ratio(part).label(label).gauge_style(Style::new().green()), bar);
    }

    fn table(&self, nodes: usize) -> Table<'static> {
        let all = self.counts.nodes.iter().map(|node| node.items).sum::<u64>().max(1) as f64;
        let rows = self.counts.nodes.iter().zip(&self.last.nodes).take(nodes).map(|(node, last)| {
            let percent = |part: u64| format!("{:.1}%", 100.0 * part as f64 / node.gets.max(1) as f64);
            Row::new([
                node.name.clone(),
                format!("{:.0}", (node.gets - last.gets) as f64 / self.since_last.as_secs_f64().max(1e-3)),
                percent(node.hits_main),
                percent(node.hits_hot),
                node.loads_peer.to_string(),
                node.loads_origin.to_string(),
                node.deduped.to_string(),
                format!("{:.1}%", 100.0 * node.items as f64 / all),
            ])
        });
        let header = ["node", "gets/s", "hits main", "hits hot", "from peers", "origin loads", "deduplicated", "share"];
        Table::new(rows, [Constraint::Length(13); 8]).header(Row::new(header).bold())
    }
}
