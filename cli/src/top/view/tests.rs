//! The screen as a terminal would show it.

use std::time::Duration;

use crossterm::event::KeyCode;
use ratatui::{Terminal, backend::TestBackend};

use super::*;
use crate::top::app::tests::{app, press};

fn screen(app: &mut App, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let now = Instant::now();
    terminal.draw(|frame| draw(frame, app, now)).unwrap();
    let buffer = terminal.backend().buffer().clone();
    let lines = buffer.content().chunks(usize::from(width)).map(|cells| {
        let line: String = cells.iter().map(|cell| cell.symbol()).collect();
        line.trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_screen_shows_server_sums_rows_and_keys() {
    let mut app = app();
    app.scope = "collector".into();
    app.link = Link::Connected;
    assert_eq!(
        screen(&mut app, 100, 7),
        "\
ebpf-hello top  unix:///run/x.sock  collector  connected
events 0.0/s, 0 in all  lost 0  by pod
WHO                              NODE       CALL                /S  AVERAGE/S        TOTAL   EXECS/S
shop/cart-0                      n1         read*             30.0       30.0           30       0.0
shop/web-0                       n1         openat*           10.0       10.0           10       0.0

 q quit  ? help  space pause  / filter  g group  sort: r rate  a average  t total  e execs  n name"
    );
}

#[test]
fn losses_interruptions_and_pauses_are_in_the_header() {
    let mut app = app();
    app.model.lost = 12;
    app.model.lost_unknown = 1;
    app.paused = true;
    app.cel_errors = 3;
    app.counted = Counted::Missing("--comm".into());
    app.link = Link::Interrupted {
        reason: "gone\u{1b}[2J".into(),
        again_at: Instant::now() + Duration::from_millis(3_990),
    };
    let screen = screen(&mut app, 140, 6);
    for words in [
        "interrupted, again in 3s: gone\\u{1b}[2J",
        "PAUSED",
        "lost 12 and 1 times an unknown number",
        "--cel failed on 3",
        "no counted calls: --comm",
    ] {
        assert!(screen.contains(words), "{words} in:\n{screen}");
    }
}

#[test]
fn help_and_filter_are_shown() {
    let mut app = app();
    press(&mut app, &[KeyCode::Char('?')]);
    assert!(screen(&mut app, 100, 24).contains("Any key goes back."));
    press(&mut app, &[KeyCode::Esc]);
    press(&mut app, &['/', 'w', 'e'].map(KeyCode::Char));
    let typed = screen(&mut app, 100, 8);
    assert!(typed.contains(" /we█") && typed.contains("web-0") && !typed.contains("cart-0"));
}

#[test]
fn any_size_is_drawn() {
    for help in [false, true] {
        for (width, height) in [(1, 1), (2, 3), (10, 2), (20, 40), (500, 3)] {
            let mut app = app();
            app.help = help;
            app.offset = 1_000;
            screen(&mut app, width, height);
            assert!(app.offset < app.rows.len());
        }
    }
}

#[test]
fn a_pipe_gets_the_same_as_a_table() {
    let text = text(&app());
    assert_eq!(
        text,
        "events 0.0/s, 0 in all  lost 0  by pod\n\
         WHO          NODE  CALL       /S  AVERAGE/S  TOTAL  EXECS/S\n\
         shop/cart-0  n1    read*    30.0       30.0     30      0.0\n\
         shop/web-0   n1    openat*  10.0       10.0     10      0.0\n"
    );
}
