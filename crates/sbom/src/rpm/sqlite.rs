//! As much of SQLite's file format as it takes to read one table from its first row to its last.

use super::Error;
use crate::files::{ReadAt, exactly};
use std::collections::BTreeSet;

const TABLE: &[u8] = b"Packages";
/// Kinds of pages of tables.
const INTERIOR: u8 = 5;
const LEAF: u8 = 13;
/// The header of the file, which is the beginning of the first page.
const FILE_HEADER: usize = 100;
/// Largest row, in bytes.
const ROW: u64 = 256 << 20;

const fn damaged(what: &'static str) -> Error {
    Error::Damaged { kind: "SQLite", what }
}

struct Database<'a> {
    file: &'a dyn ReadAt,
    page: usize,
    usable: usize,
}

/// The second column of every row of the table of packages.
pub fn blobs(file: &dyn ReadAt) -> Result<Vec<Vec<u8>>, Error> {
    let head = exactly(file, 0, FILE_HEADER).map_err(|_| damaged("no header"))?;
    if !head.starts_with(b"SQLite format 3\0") {
        return Err(damaged("no header"));
    }
    let page = match u16::from_be_bytes([head[16], head[17]]) {
        1 => 65536,
        n => usize::from(n),
    };
    if !page.is_power_of_two() || page < 512 {
        return Err(damaged("the page size is none"));
    }
    let db = Database { file, page, usable: page - usize::from(head[20]) };
    // Rows of the schema: type, name, table, root page, SQL.
    let mut root = None;
    db.rows(1, &mut |row| {
        let columns = columns(row)?;
        if let [b"table", TABLE, _, page, ..] = columns.as_slice() {
            root = Some(page.iter().fold(0u32, |n, b| (n << 8) | u32::from(*b)));
        }
        Ok(())
    })?;
    let root = root.ok_or(damaged("no table of packages"))?;
    // Rows lie side by side: those of a sound file are no more than it.
    let mut left = file.size()?;
    let mut out = Vec::new();
    db.rows(root, &mut |row| {
        left = left.checked_sub(row.len() as u64).ok_or(damaged("rows lie upon each other"))?;
        let columns = columns(row)?;
        out.push(columns.get(1).ok_or(damaged("a row has no blob"))?.to_vec());
        Ok(())
    })?;
    Ok(out)
}

impl Database<'_> {
    fn page(&self, number: u32) -> Result<Vec<u8>, Error> {
        let number = u64::from(number).checked_sub(1).ok_or(damaged("a page has no number"))?;
        exactly(self.file, number * self.page as u64, self.page).map_err(|_| damaged("a page is not there"))
    }

    /// Calls `each` with every row below a page, in order.
    fn rows(&self, root: u32, each: &mut dyn FnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error> {
        let mut seen = BTreeSet::new();
        let mut ahead = vec![root];
        while let Some(number) = ahead.pop() {
            if !seen.insert(number) {
                return Err(damaged("pages run in a circle"));
            }
            let page = self.page(number)?;
            let base = if number == 1 { FILE_HEADER } else { 0 };
            let kind = page[base];
            let cells = usize::from(short(&page, base + 3)?);
            let pointers = base + if kind == INTERIOR { 12 } else { 8 };
            match kind {
                INTERIOR => {
                    ahead.push(long(&page, base + 8)?);
                    for cell in (0..cells).rev() {
                        ahead.push(long(&page, usize::from(short(&page, pointers + cell * 2)?))?);
                    }
                }
                LEAF => {
                    for cell in 0..cells {
                        let at = usize::from(short(&page, pointers + cell * 2)?);
                        each(&self.row(page.get(at..self.usable).ok_or(damaged("a row is not there"))?)?)?;
                    }
                }
                _ => return Err(damaged("a page is of another kind")),
            }
        }
        Ok(())
    }

    /// The content of a cell, with the pages that it goes on in.
    fn row(&self, cell: &[u8]) -> Result<Vec<u8>, Error> {
        let (length, rest) = varint(cell)?;
        let (_id, rest) = varint(rest)?;
        if length > ROW {
            return Err(damaged("a row is too long"));
        }
        let length = length as usize;
        let largest = self.usable - 35;
        let here = if length <= largest {
            length
        } else {
            let least = (self.usable - 12) * 32 / 255 - 23;
            let even = least + (length - least) % (self.usable - 4);
            if even <= largest { even } else { least }
        };
        let mut row = rest.get(..here).ok_or(damaged("a row ends early"))?.to_vec();
        let mut next = if here < length { long(rest, here)? } else { 0 };
        while row.len() < length {
            let page = self.page(next)?;
            next = long(&page, 0)?;
            let take = (length - row.len()).min(self.usable - 4);
            row.extend_from_slice(&page[4..4 + take]);
        }
        Ok(row)
    }
}

/// The bytes of each column of a row.
fn columns(row: &[u8]) -> Result<Vec<&[u8]>, Error> {
    let (header, _) = varint(row)?;
    let header = usize::try_from(header).unwrap_or(usize::MAX);
    let mut types = row.get(..header).ok_or(damaged("a row ends early"))?;
    let mut data = &row[header..];
    (_, types) = varint(types)?;
    let mut out = Vec::new();
    while !types.is_empty() {
        let (kind, rest) = varint(types)?;
        types = rest;
        let length = match kind {
            0 | 8 | 9 => 0,
            1..=4 => kind as usize,
            5 => 6,
            6 | 7 => 8,
            10 | 11 => return Err(damaged("a column has no type")),
            _ => ((kind - 12) / 2) as usize,
        };
        let (column, rest) = data.split_at_checked(length).ok_or(damaged("a column ends early"))?;
        data = rest;
        out.push(column);
    }
    Ok(out)
}

fn short(bytes: &[u8], at: usize) -> Result<u16, Error> {
    let found = bytes.get(at..at + 2).and_then(|b| b.try_into().ok());
    found.map(u16::from_be_bytes).ok_or(damaged("a page ends early"))
}

fn long(bytes: &[u8], at: usize) -> Result<u32, Error> {
    let found = bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
    found.map(u32::from_be_bytes).ok_or(damaged("a page ends early"))
}

/// A number of one to nine bytes, and what follows it.
fn varint(bytes: &[u8]) -> Result<(u64, &[u8]), Error> {
    let mut value = 0;
    for (i, byte) in bytes.iter().take(9).enumerate() {
        if i == 8 {
            return Ok(((value << 8) | u64::from(*byte), &bytes[9..]));
        }
        value = (value << 7) | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Ok((value, &bytes[i + 1..]));
        }
    }
    Err(damaged("a number ends early"))
}
