//! The screen.

use std::time::Instant;

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style, Stylize as _},
    text::{Line, Span},
    widgets::{Block, Clear, Paragraph, Row as Cells, Table},
};

use super::{
    app::{App, Counted, Link},
    model::{Grouping, Row, Sort},
};
use crate::{render::human, table::table};

/// The columns, and what they are sorted by.
const COLUMNS: [(&str, Option<Sort>); 7] = [
    ("WHO", Some(Sort::Name)),
    ("NODE", None),
    ("CALL", None),
    ("/S", Some(Sort::Rate)),
    ("AVERAGE/S", Some(Sort::Average)),
    ("TOTAL", Some(Sort::Total)),
    ("EXECS/S", Some(Sort::Execs)),
];

const KEYS: &str = " q quit  ? help  space pause  / filter  g group  sort: r rate  a average  t total  e execs  n name";

const HELP: [&str; 15] = [
    "Who makes which calls, and how often.",
    "",
    "r a t e n   sort by rate, average, total, execs, name",
    "/           filter: part of who, node or call; Enter keeps it, Esc drops it",
    "g           group by pod, namespace, node or process",
    "space       pause; counting goes on",
    "arrows, Page Up, Page Down, Home, End   move",
    "q, Ctrl-C   end",
    "",
    "/S is the last second, AVERAGE/S the last ten or so, TOTAL since the start.",
    "A call with * was counted in the kernel instead of reported.",
    "(others) is what no longer has a row of its own: the 4096 busiest have.",
    "Lost events are never silent: LOST counts those of this stream.",
    "",
    "Any key goes back.",
];

/// Draws everything; tells the app how many rows fit.
pub(super) fn draw(frame: &mut Frame, app: &mut App, now: Instant) {
    let [head, body, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(vec![title(app, now), sums(app)]), head);
    // One line is the table's header.
    app.page = usize::from(body.height.saturating_sub(1)).max(1);
    app.offset = app.offset.min(app.rows.len().saturating_sub(app.page));
    draw_rows(frame, body, app);
    frame.render_widget(footer(app), foot);
    if app.help {
        draw_help(frame);
    }
}

/// The same as plain text, for a pipe.
pub(super) fn text(app: &App) -> String {
    let rows: Vec<_> = app.rows.iter().map(cells).collect();
    format!(
        "{}\n{}",
        plain(&sums(app)),
        table(COLUMNS.map(|(name, _)| name), &rows)
    )
}

fn title(app: &App, now: Instant) -> Line<'static> {
    let state = match &app.link {
        Link::Connecting => Span::from("connecting").yellow(),
        Link::Connected => Span::from("connected").green(),
        Link::Interrupted { reason, again_at } => {
            let wait = again_at.saturating_duration_since(now).as_secs();
            Span::from(format!("interrupted, again in {wait}s: {}", human(reason))).red()
        }
    };
    let mut spans = vec![
        Span::from("ebpf-hello top").bold(),
        format!("  {}  {}  ", human(&app.server), human(&app.scope)).into(),
        state,
    ];
    if app.paused {
        spans.push("  ".into());
        spans.push(Span::from(" PAUSED ").reversed());
    }
    Line::from(spans)
}

fn sums(app: &App) -> Line<'static> {
    let model = &app.model;
    let events = &model.events;
    let mut spans: Vec<Span> = vec![
        format!(
            "events {}/s, {} in all  ",
            number(events.per_second()),
            events.total()
        )
        .into(),
    ];
    let lost = match model.lost_unknown {
        0 => format!("lost {}", model.lost),
        times => format!("lost {} and {times} times an unknown number", model.lost),
    };
    spans.push(if model.lost == 0 && model.lost_unknown == 0 {
        lost.into()
    } else {
        Span::from(lost).red().bold()
    });
    if model.suppressed > 0 {
        spans.push(format!("  left out on request {}", model.suppressed).into());
    }
    if app.cel_errors > 0 {
        spans.push(Span::from(format!("  --cel failed on {}", app.cel_errors)).red());
    }
    let by = match model.grouping() {
        Grouping::Pod => "pod",
        Grouping::Namespace => "namespace",
        Grouping::Node => "node",
        Grouping::Process => "process",
    };
    spans.push(format!("  by {by}").into());
    if let Counted::Missing(why) = &app.counted {
        spans.push(Span::from(format!("  no counted calls: {}", human(why))).yellow());
    }
    Line::from(spans)
}

fn draw_rows(frame: &mut Frame, area: Rect, app: &App) {
    let header = Cells::new(COLUMNS.map(|(name, sort)| {
        let right = matches!(name, "/S" | "AVERAGE/S" | "TOTAL" | "EXECS/S");
        let line = Line::from(name);
        let line = if right { line.right_aligned() } else { line };
        if sort == Some(app.sort) {
            line.style(Style::new().add_modifier(Modifier::REVERSED))
        } else {
            line
        }
    }))
    .bold();
    let rows = app.rows.iter().skip(app.offset).take(app.page).map(|row| {
        let [who, node, call, rate, average, total, execs] = cells(row);
        let right = |text: String| Line::from(text).right_aligned();
        let cells = Cells::new([
            Line::from(who),
            node.into(),
            call.into(),
            right(rate),
            right(average),
            right(total),
            right(execs),
        ]);
        match (row.rate > 0.0, row.counted) {
            (false, _) => cells.fg(Color::DarkGray),
            (true, true) => cells.cyan(),
            (true, false) => cells,
        }
    });
    let widths = [
        Constraint::Fill(3),
        Constraint::Fill(1),
        Constraint::Fill(1),
        Constraint::Length(10),
        Constraint::Length(10),
        Constraint::Length(12),
        Constraint::Length(9),
    ];
    frame.render_widget(
        Table::new(rows, widths).header(header).column_spacing(1),
        area,
    );
}

fn footer(app: &App) -> Paragraph<'static> {
    if app.typing {
        Paragraph::new(format!(" /{}█", human(&app.filter)))
    } else if app.filter.is_empty() {
        Paragraph::new(KEYS).dim()
    } else {
        Paragraph::new(format!(" filter: {}  (Esc drops it)", human(&app.filter)))
    }
}

fn draw_help(frame: &mut Frame) {
    let width = HELP.iter().map(|line| line.len()).max().unwrap_or_default();
    // Bounded by the screen, which may be smaller.
    let clamp = |length: usize, most: u16| u16::try_from(length + 2).unwrap_or(u16::MAX).min(most);
    let all = frame.area();
    let (width, height) = (clamp(width, all.width), clamp(HELP.len(), all.height));
    let area = Rect {
        x: all.x + (all.width - width) / 2,
        y: all.y + (all.height - height) / 2,
        width,
        height,
    };
    let lines: Vec<_> = HELP.into_iter().map(Line::from).collect();
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines).block(Block::bordered()), area);
}

fn cells(row: &Row) -> [String; 7] {
    let mark = if row.counted { "*" } else { "" };
    let call = match row.call.as_str() {
        "" => "-".to_owned(),
        call => format!("{}{mark}", human(call)),
    };
    let node = match row.subject.node.as_str() {
        "" => "-".to_owned(),
        node => human(node),
    };
    [
        human(&row.subject.name),
        node,
        call,
        number(row.rate),
        number(row.average),
        row.total.to_string(),
        number(row.execs),
    ]
}

/// A rate with a digit after the point.
fn number(rate: f64) -> String {
    format!("{rate:.1}")
}

fn plain(line: &Line) -> String {
    line.spans
        .iter()
        .map(|span| span.content.as_ref())
        .collect()
}

#[cfg(test)]
mod tests;
