//! What the screen shows, and what keys do to it. Pure, but for the clock it is handed.

use std::time::Instant;

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::model::{Grouping, Model, Row, Sort};

/// Characters of a filter at most.
const MAX_FILTER: usize = 64;

/// The state of the connection.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Link {
    /// No answer yet.
    Connecting,
    /// Events come.
    Connected,
    /// They do not; the next attempt is at `again_at`.
    Interrupted { reason: String, again_at: Instant },
}

/// Whether the kernel's counters are in the rows.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Counted {
    /// They are.
    Shown,
    /// They are not, because of this.
    Missing(String),
}

/// What to do after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Go on.
    Continue,
    /// End.
    Quit,
}

/// The state of the screen.
pub(super) struct App {
    pub(super) model: Model,
    /// The rows as they were at the last tick; in a pause those of its beginning.
    pub(super) rows: Vec<Row>,
    pub(super) sort: Sort,
    pub(super) filter: String,
    /// Keys go to the filter.
    pub(super) typing: bool,
    pub(super) paused: bool,
    pub(super) help: bool,
    /// The first row shown.
    pub(super) offset: usize,
    /// Rows that fit on the screen, as it was drawn last.
    pub(super) page: usize,
    pub(super) server: String,
    /// What the server says it is.
    pub(super) scope: String,
    pub(super) link: Link,
    pub(super) counted: Counted,
    pub(super) cel_errors: u64,
}

// === impl App ===

impl App {
    pub(super) fn new(server: String, grouping: Grouping, sort: Sort, counted: Counted) -> Self {
        App {
            model: Model::new(grouping),
            rows: Vec::new(),
            sort,
            filter: String::new(),
            typing: false,
            paused: false,
            help: false,
            offset: 0,
            page: 1,
            server,
            scope: String::new(),
            link: Link::Connecting,
            counted,
            cel_errors: 0,
        }
    }

    /// Takes over what the model has, but in a pause.
    pub(super) fn refresh(&mut self) {
        if !self.paused {
            self.rows = self.model.rows(self.sort, &self.filter);
        }
        self.offset = self.offset.min(self.rows.len().saturating_sub(self.page));
    }

    pub(super) fn key(&mut self, key: KeyEvent) -> Action {
        if key.kind == KeyEventKind::Release {
            return Action::Continue;
        }
        // In raw mode Ctrl-C is a key like others.
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Action::Quit;
        }
        if self.typing {
            self.type_filter(key.code);
            return Action::Continue;
        }
        if self.help {
            self.help = false;
            return Action::Continue;
        }
        match key.code {
            KeyCode::Char('q') => return Action::Quit,
            KeyCode::Char(' ') => self.paused = !self.paused,
            KeyCode::Char('?' | 'h') => self.help = true,
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('r') => self.sort = Sort::Rate,
            KeyCode::Char('a') => self.sort = Sort::Average,
            KeyCode::Char('t') => self.sort = Sort::Total,
            KeyCode::Char('e') => self.sort = Sort::Execs,
            KeyCode::Char('n') => self.sort = Sort::Name,
            KeyCode::Char('g') => {
                let next = match self.model.grouping() {
                    Grouping::Pod => Grouping::Namespace,
                    Grouping::Namespace => Grouping::Node,
                    Grouping::Node => Grouping::Process,
                    Grouping::Process => Grouping::Pod,
                };
                self.model.regroup(next);
            }
            KeyCode::Up | KeyCode::Char('k') => self.offset = self.offset.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => self.offset += 1,
            KeyCode::PageUp => self.offset = self.offset.saturating_sub(self.page),
            KeyCode::PageDown => self.offset += self.page,
            KeyCode::Home => self.offset = 0,
            KeyCode::End => self.offset = self.rows.len(),
            _ => {}
        }
        self.refresh();
        Action::Continue
    }

    fn type_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(character) if self.filter.chars().count() < MAX_FILTER => {
                self.filter.push(character);
            }
            _ => {}
        }
        self.refresh();
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::time::Duration;

    pub(crate) fn app() -> App {
        let mut app = App::new(
            "unix:///run/x.sock".into(),
            Grouping::Pod,
            Sort::Rate,
            Counted::Shown,
        );
        app.model.add_counted("n1", "shop", "cart-0", "read", 30);
        app.model.add_counted("n1", "shop", "web-0", "openat", 10);
        app.model.tick(Duration::from_secs(1));
        app.refresh();
        app
    }

    pub(crate) fn press(app: &mut App, codes: &[KeyCode]) -> Action {
        codes
            .iter()
            .map(|code| app.key(KeyEvent::from(*code)))
            .last()
            .unwrap()
    }

    #[test]
    fn a_filter_is_typed_and_left_again() {
        let mut app = app();
        let keys = ['/', 'w', 'e', 'q'].map(KeyCode::Char);
        assert_eq!(
            press(&mut app, &keys),
            Action::Continue,
            "q is part of the filter"
        );
        assert_eq!((app.filter.as_str(), app.rows.len()), ("weq", 0));
        press(&mut app, &[KeyCode::Backspace, KeyCode::Enter]);
        assert_eq!((app.filter.as_str(), app.rows.len()), ("we", 1));
        press(&mut app, &[KeyCode::Esc]);
        assert_eq!((app.filter.as_str(), app.rows.len()), ("", 2));
        press(&mut app, &[KeyCode::Char('/')]);
        press(&mut app, &[KeyCode::Char('x'); 100]);
        assert_eq!(app.filter.len(), MAX_FILTER);
    }

    #[test]
    fn a_pause_holds_the_rows_and_not_the_counts() {
        let mut app = app();
        press(&mut app, &[KeyCode::Char(' ')]);
        app.model.add_counted("n1", "shop", "db-0", "read", 99);
        app.model.tick(Duration::from_secs(1));
        app.refresh();
        assert_eq!(app.rows.len(), 2);
        press(&mut app, &[KeyCode::Char(' ')]);
        assert_eq!(app.rows.len(), 3);
        assert_eq!(app.rows[0].subject.name, "shop/db-0");
    }

    #[test]
    fn keys_sort_scroll_group_and_end() {
        let mut app = app();
        press(&mut app, &[KeyCode::Char('n')]);
        assert_eq!(app.rows[0].subject.name, "shop/cart-0");
        press(&mut app, &[KeyCode::Down, KeyCode::Down, KeyCode::PageDown]);
        assert_eq!(app.offset, 1, "not past the last row");
        press(&mut app, &[KeyCode::Home]);
        assert_eq!(app.offset, 0);
        press(&mut app, &[KeyCode::Char('?')]);
        assert!(app.help);
        assert_eq!(
            press(&mut app, &[KeyCode::Char('q')]),
            Action::Continue,
            "q leaves help"
        );
        press(&mut app, &[KeyCode::Char('g')]);
        assert_eq!(app.model.grouping(), Grouping::Namespace);
        assert_eq!(press(&mut app, &[KeyCode::Char('q')]), Action::Quit);
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        press(&mut app, &[KeyCode::Char('/')]);
        assert_eq!(app.key(interrupt), Action::Quit);
    }
}
