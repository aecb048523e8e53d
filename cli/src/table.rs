//! Plain tables with aligned columns.

use std::fmt::Write as _;

/// Rows under a header; numbers (and only they) are aligned to the right.
pub(crate) fn table<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = header.map(str::len);
    let mut numeric = [!rows.is_empty(); N];
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            widths[column] = widths[column].max(cell.chars().count());
            numeric[column] &= cell.is_empty() || cell == "-" || cell.parse::<f64>().is_ok();
        }
    }
    let mut text = String::new();
    let mut line = |cells: [&str; N]| {
        let mut line = String::new();
        for (column, cell) in cells.iter().enumerate() {
            let gap = if column == 0 { "" } else { "  " };
            // Writing to a String cannot fail.
            let _ = match numeric[column] {
                true => write!(line, "{gap}{cell:>width$}", width = widths[column]),
                false => write!(line, "{gap}{cell:<width$}", width = widths[column]),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    };
    line(header);
    for row in rows {
        line(row.each_ref().map(String::as_str));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_right_and_words_left() {
        let rows = [
            ["root".to_owned(), "12".to_owned()],
            ["a".to_owned(), "3".to_owned()],
        ];
        assert_eq!(
            table(["USER", "EXECS"], &rows),
            "USER  EXECS\nroot     12\na         3\n"
        );
    }
}
