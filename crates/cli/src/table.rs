//! Columns of text, aligned as Go's tabwriter aligns them: a column is as wide as its widest cell among
//! neighbouring lines, and the last cell of a line belongs to no column.

/// What fills a cell up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// Tabs; widths are multiples of eight.
    Tabs,
    /// Blanks.
    Blanks,
}

const TAB: usize = 8;
const PADDING: usize = 1;

/// Lines of cells.
pub struct Table {
    fill: Fill,
    lines: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    pub fn new(fill: Fill) -> Self {
        Self { fill, lines: Vec::new() }
    }

    /// Adds a line; an empty one ends all columns.
    pub fn line<const N: usize>(&mut self, cells: [&str; N]) {
        self.lines.push(cells.map(str::to_owned).to_vec());
    }

    /// The text.
    pub fn finish(self) -> String {
        let mut out = String::new();
        self.block(0, self.lines.len(), &mut Vec::new(), &mut out);
        out
    }

    /// Writes the lines of a range for which the widths of the first columns are settled.
    fn block(&self, from: usize, to: usize, widths: &mut Vec<usize>, out: &mut String) {
        let column = widths.len();
        let has_cell = |line: usize| self.lines[line].len() > column + 1;
        let mut line = from;
        while line < to {
            if !has_cell(line) {
                self.write(line, widths, out);
                line += 1;
                continue;
            }
            let end = (line..to).find(|&other| !has_cell(other)).unwrap_or(to);
            let widest = (line..end).map(|l| self.lines[l][column].chars().count()).max().unwrap_or(0);
            widths.push(if widest == 0 && self.fill == Fill::Tabs { 0 } else { widest + PADDING });
            self.block(line, end, widths, out);
            widths.pop();
            line = end;
        }
    }

    fn write(&self, line: usize, widths: &[usize], out: &mut String) {
        let cells = &self.lines[line];
        for (index, cell) in cells.iter().enumerate() {
            out.push_str(cell);
            if index + 1 == cells.len() {
                break;
            }
            let (length, width) = (cell.chars().count(), widths[index]);
            match self.fill {
                Fill::Blanks => out.extend(std::iter::repeat_n(' ', width - length)),
                // An empty column in front indents by a tab.
                Fill::Tabs if width == 0 => out.push('\t'),
                Fill::Tabs => {
                    let width = width.next_multiple_of(TAB);
                    out.extend(std::iter::repeat_n('\t', (width - length).div_ceil(TAB)));
                }
            }
        }
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_end_where_lines_are_shorter() {
        let mut table = Table::new(Fill::Tabs);
        table.line(["ID:", "abc"]);
        table.line(["Platforms:", "linux/amd64"]);
        table.line(["Labels:"]);
        table.line(["", "org.example.a:", "1"]);
        table.line(["", "b:", "2"]);
        assert_eq!(table.finish(), "ID:\t\tabc\nPlatforms:\tlinux/amd64\nLabels:\n\torg.example.a:\t1\n\tb:\t\t2\n");
        let mut table = Table::new(Fill::Blanks);
        table.line(["BuildKit:", "x"]);
        table.line(["Dockerfile:", "y"]);
        assert_eq!(table.finish(), "BuildKit:   x\nDockerfile: y\n");
    }
}
