//! Tables, as docker's users know them: columns as wide as what is in them.

/// Lines of columns with three spaces between.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|title| title.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = line(head.iter().map(|title| (*title).to_owned()), &widths);
    for row in rows {
        text.push_str(&line(row.iter().cloned(), &widths));
    }
    text
}

fn line(cells: impl Iterator<Item = String>, widths: &[usize]) -> String {
    let mut text = String::new();
    for (cell, width) in cells.zip(widths) {
        text.push_str(&cell);
        let short = width.saturating_sub(cell.chars().count()) + 3;
        text.push_str(&" ".repeat(short));
    }
    format!("{}\n", text.trim_end())
}

/// How long ago, in docker's words.
pub(crate) fn ago(seconds: i64) -> String {
    let hours = seconds / 3600;
    match seconds {
        ..1 => "Less than a second ago".to_owned(),
        1 => "1 second ago".to_owned(),
        2..60 => format!("{seconds} seconds ago"),
        60..120 => "About a minute ago".to_owned(),
        120..3600 => format!("{} minutes ago", seconds / 60),
        3600..7200 => "About an hour ago".to_owned(),
        _ if hours < 48 => format!("{hours} hours ago"),
        _ if hours < 24 * 14 => format!("{} days ago", hours / 24),
        _ if hours < 24 * 60 => format!("{} weeks ago", hours / 24 / 7),
        _ if hours < 24 * 730 => format!("{} months ago", hours / 24 / 30),
        _ => format!("{} years ago", hours / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::{ago, table};

    #[test]
    fn columns_are_as_wide_as_their_cells() {
        let rows = [vec!["a".to_owned(), "b".to_owned()], vec!["long".to_owned(), String::new()]];
        assert_eq!(table(&["X", "Y"], &rows), "X      Y\na      b\nlong\n");
    }

    #[test]
    fn times_are_words() {
        assert_eq!((ago(5).as_str(), ago(7200).as_str()), ("5 seconds ago", "2 hours ago"));
    }
}
