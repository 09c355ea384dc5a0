//! Go: module files, checksums, and what the compiler writes into programs.

use super::{add, text};
use crate::{
    files::{ReadAt, exactly},
    scan::Scanner,
};
use std::io;

/// `go.mod`: what it requires.
pub fn module(scanner: &mut Scanner, path: &str) {
    let Some(file) = text(scanner, path) else { return };
    let mut in_block = false;
    for line in file.lines() {
        let line = line.split("//").next().unwrap_or_default().trim();
        let requirement = match line {
            "require (" => {
                in_block = true;
                continue;
            }
            ")" => {
                in_block = false;
                continue;
            }
            line if in_block => line,
            line => line.strip_prefix("require ").unwrap_or_default(),
        };
        if let Some((module, version)) = requirement.split_once(' ') {
            add(scanner, path, "golang", module, version.trim());
        }
    }
}

/// `go.sum`, where no `go.mod` lies beside it: it also names versions that were only considered.
pub fn sums(scanner: &mut Scanner, path: &str) {
    let beside = format!("{}mod", path.trim_end_matches("sum"));
    if scanner.peek(&beside).is_some() {
        return;
    }
    let Some(file) = text(scanner, path) else { return };
    for line in file.lines() {
        let mut words = line.split_whitespace();
        if let (Some(module), Some(version)) = (words.next(), words.next())
            && !version.ends_with("/go.mod")
        {
            add(scanner, path, "golang", module, version);
        }
    }
}

/// A program, when it is one of Go's: its toolchain, its module and those that it is built from.
pub fn program(scanner: &mut Scanner, path: &str) {
    let Some(file) = scanner.open(path) else { return };
    let Ok(Some((version, modules))) = build_info(file.as_ref()) else { return };
    if let Some(version) = version.strip_prefix("go") {
        // What follows a space are experiments that were on.
        add(scanner, path, "golang", "stdlib", version.split(' ').next().unwrap_or_default());
    }
    let mut lines = modules.lines().map(|line| line.split('\t').collect::<Vec<_>>()).peekable();
    while let Some(line) = lines.next() {
        let ["mod" | "dep", module, version, ..] = line.as_slice() else { continue };
        let (mut module, mut version) = (*module, *version);
        let replaced = lines.next_if(|next| next.first() == Some(&"=>"));
        if let Some(["=>", with, at, ..]) = replaced.as_deref() {
            (module, version) = (with, at);
        }
        if version != "(devel)" {
            add(scanner, path, "golang", module, version);
        }
    }
}

/// The section of ELF files that the compiler writes to.
const SECTION: &[u8] = b".go.buildinfo\0";
const MAGIC: &[u8] = b"\xff Go buildinf:";
/// Strings follow the header, rather than being pointed to as before Go 1.18.
const INLINE: u8 = 2;
/// Where those strings begin.
const STRINGS: usize = 32;
/// The list of modules is between marks of so many bytes.
const MARK: usize = 16;
/// Most sections of a program.
const SECTIONS: u64 = 4096;

/// The compiler's version and the list of modules; none when the file is no program of Go 1.18 or newer.
fn build_info(file: &dyn ReadAt) -> io::Result<Option<(String, String)>> {
    let Ok(head) = exactly(file, 0, 64) else { return Ok(None) };
    if !head.starts_with(b"\x7fELF") {
        return Ok(None);
    }
    let elf = Elf { wide: head[4] == 2, little: head[5] == 1 };
    let (table, size, count, names) = if elf.wide {
        (elf.number(&head, 40, 8), elf.number(&head, 58, 2), elf.number(&head, 60, 2), elf.number(&head, 62, 2))
    } else {
        (elf.number(&head, 32, 4), elf.number(&head, 46, 2), elf.number(&head, 48, 2), elf.number(&head, 50, 2))
    };
    if size < 40 || count == 0 || count > SECTIONS || names >= count {
        return Ok(None);
    }
    let sections = exactly(file, table, (size * count) as usize)?;
    let section = |i: u64| &sections[(i * size) as usize..((i + 1) * size) as usize];
    let (start, length) = elf.extent(section(names));
    let names = exactly(file, start, length.min(1 << 20) as usize)?;
    for i in 0..count {
        let name = elf.number(section(i), 0, 4) as usize;
        if !names.get(name..).is_some_and(|n| n.starts_with(SECTION)) {
            continue;
        }
        let (start, length) = elf.extent(section(i));
        let info = exactly(file, start, length.min(16 << 20) as usize)?;
        return Ok(parse(&info));
    }
    Ok(None)
}

fn parse(info: &[u8]) -> Option<(String, String)> {
    if !info.starts_with(MAGIC) || info.get(15)? & INLINE == 0 {
        return None;
    }
    let (version, rest) = string(info.get(STRINGS..)?)?;
    let (modules, _) = string(rest)?;
    let modules = modules.get(MARK..modules.len().checked_sub(MARK)?)?;
    Some((String::from_utf8_lossy(version).into_owned(), String::from_utf8_lossy(modules).into_owned()))
}

/// A string with its length in front, seven bits a byte, and what follows.
fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut length = 0usize;
    for (i, byte) in bytes.iter().take(5).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return bytes[i + 1..].split_at_checked(length);
        }
    }
    None
}

/// How an ELF file writes numbers.
struct Elf {
    wide: bool,
    little: bool,
}

impl Elf {
    fn number(&self, bytes: &[u8], at: usize, length: usize) -> u64 {
        let found = bytes.get(at..at + length).unwrap_or_default();
        let join = |n: u64, b: &u8| (n << 8) | u64::from(*b);
        if self.little { found.iter().rev().fold(0, join) } else { found.iter().fold(0, join) }
    }

    /// Offset and length of a section in the file.
    fn extent(&self, section: &[u8]) -> (u64, u64) {
        if self.wide {
            (self.number(section, 24, 8), self.number(section, 32, 8))
        } else {
            (self.number(section, 16, 4), self.number(section, 20, 4))
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::scan::tests::{check, check_bytes};

    #[test]
    fn module_files() {
        let module = "module example.org/own\n\ngo 1.22\n\nrequire github.com/a/b v1.2.3\n\nrequire (\n\tgolang.org/x/Sys v0.1.0 // indirect\n)\n";
        let sums =
            "github.com/c/d v1.0.0 h1:x=\ngithub.com/c/d v1.0.0/go.mod h1:y=\ngithub.com/e/f v2.0.0/go.mod h1:z=\n";
        insta::assert_snapshot!(check([("a/go.mod", module), ("a/go.sum", sums), ("b/go.sum", sums)]), @"
        pkg:golang/github.com/a/b@v1.2.3 /a/go.mod
        pkg:golang/github.com/c/d@v1.0.0 /b/go.sum
        pkg:golang/golang.org/x/sys@v0.1.0 /a/go.mod
        ");
    }

    /// A program of nothing but what is read of it.
    fn program(modules: &str) -> Vec<u8> {
        let mut info = super::MAGIC.to_vec();
        info.extend([8, 2]);
        info.resize(32, 0);
        let modules = format!("{0}{modules}{0}", "################");
        for text in ["go1.22.1 X:nocoverageredesign", &modules] {
            let length = text.len();
            info.extend([(length & 0x7f) as u8 | 0x80, (length >> 7) as u8]);
            info.extend(text.bytes());
        }
        let names = b"\0.go.buildinfo\0";
        let mut out = vec![0; 64];
        out[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let table = 64 + info.len() + names.len();
        out[40..48].copy_from_slice(&(table as u64).to_le_bytes());
        (out[58], out[60], out[62]) = (64, 2, 1);
        let (info_at, info_length) = (64u64, info.len() as u64);
        out.extend(info);
        out.extend(names);
        for (name, at, length) in [(1u32, info_at, info_length), (0, info_at + info_length, names.len() as u64)] {
            let mut section = vec![0; 64];
            section[..4].copy_from_slice(&name.to_le_bytes());
            section[24..32].copy_from_slice(&at.to_le_bytes());
            section[32..40].copy_from_slice(&length.to_le_bytes());
            out.extend(section);
        }
        out
    }

    #[test]
    fn programs() {
        let modules = "path\texample.org/own/cmd\nmod\texample.org/own\t(devel)\t\n\
                       dep\tgithub.com/a/b\tv1.2.3\th1:x=\ndep\tgithub.com/c/d\tv1.0.0\n=>\tgithub.com/fork/d\tv1.0.1\th1:y=\nbuild\tGOOS=linux\n";
        let elf = program(modules);
        let files = [
            ("usr/bin/tool", elf.as_slice()),
            ("usr/lib/tool", &elf),
            ("bin/cut", &elf[..200]),
            ("bin/script", b"#!/bin/sh\n"),
        ];
        insta::assert_snapshot!(check_bytes(files), @"
        pkg:golang/stdlib@1.22.1 /usr/bin/tool
        pkg:golang/github.com/a/b@v1.2.3 /usr/bin/tool
        pkg:golang/github.com/fork/d@v1.0.1 /usr/bin/tool
        ");
    }
}
