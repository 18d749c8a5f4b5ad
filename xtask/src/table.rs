//! Tables with aligned columns and nothing else, as kubectl prints them.

use comfy_table::{ContentArrangement, Table, presets::NOTHING};

/// Prints a table.
pub(crate) fn print(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
    println!("{}", render(header, rows));
}

fn render(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header)
        .add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_without_spaces() {
        let rows = [
            vec!["node1".into(), "1".into()],
            vec!["x".into(), String::new()],
        ];
        assert_eq!(render(&["NAME", "N"], rows), "NAME    N\nnode1   1\nx");
    }
}
