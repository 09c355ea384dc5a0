//! Who asks, and what is in its memory.

use super::notify::{self, FileUser};
use rustix::io::Errno;
use std::cell::Cell;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;

/// What is read of a path at first; most are shorter, and most need not be read further.
const FIRST_PIECE: usize = 64;
const PAGE: usize = 4096;

/// Who asks, by `/proc/<thread>/status`.
pub(super) struct Caller {
    pub thread: u32,
    pub process: u32,
    /// Of its files.
    user: (u32, u32),
}

impl Caller {
    pub(super) fn of(thread: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
        let field = |name: &str, column: usize| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_ascii_whitespace().nth(column)?.parse().ok()
        };
        // The fourth of the four identities is that of files (proc_pid_status(5)).
        Some(Self { thread, process: field("Tgid:", 0)?, user: (field("Uid:", 3)?, field("Gid:", 3)?) })
    }

    /// Until dropped, this thread sees files as the caller does.
    pub(super) fn lends_its_user(&self) -> Option<FileUser> {
        (self.user.0 != rustix::process::geteuid().as_raw()).then(|| FileUser::new(self.user.0, self.user.1))
    }

    /// Its memory, to write to, as long as this thread [has its user](Self::lends_its_user). What was opened by a thread's
    /// number is that thread's if its call still waits afterwards.
    pub(super) fn memory(&self) -> Result<File, Errno> {
        open(self.thread).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::FAULT))
    }
}

fn open(thread: u32) -> io::Result<File> {
    File::options().read(true).write(true).open(format!("/proc/{thread}/mem"))
}

/// Reads what callers' memory says. Nothing is kept of a thread: its number may soon be another's, and its memory is another
/// one after it has executed a program.
#[derive(Default)]
pub(super) struct Reader {
    /// Whose memory had to be opened the last time.
    user: Cell<Option<(u32, u32)>>,
}

impl Reader {
    /// The text at an address, if `may_be` it by its beginning. None also where the memory is closed to the builder, or the
    /// thread has ended.
    pub(super) fn text(&self, thread: u32, at: u64, may_be: &dyn Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        if let Some(user) = self.user.get() {
            // Another user's memory is closed to all but that user: that it opens shows that the guess was right.
            let _user = FileUser::new(user.0, user.1);
            if let Ok(memory) = open(thread) {
                return text(at, may_be, |piece, at| read(&memory, piece, at)).ok()?;
            }
        }
        match text(at, may_be, |piece, at| notify::read_memory(thread, piece, at)) {
            // It is another user's, or such calls are not permitted here.
            Err(Errno::PERM | Errno::NOSYS) => {}
            found => return found.ok()?,
        }
        let memory = match open(thread) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                let caller = Caller::of(thread)?;
                let _user = caller.lends_its_user()?;
                self.user.set(Some(caller.user));
                open(thread).ok()?
            }
            opened => opened.ok()?,
        };
        text(at, may_be, |piece, at| read(&memory, piece, at)).ok()?
    }
}

fn read(memory: &File, piece: &mut [u8], at: u64) -> Result<usize, Errno> {
    memory.read_at(piece, at).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::FAULT))
}

fn text(
    mut at: u64,
    may_be: &dyn Fn(&[u8]) -> bool,
    read: impl Fn(&mut [u8], u64) -> Result<usize, Errno>,
) -> Result<Option<Vec<u8>>, Errno> {
    let (mut text, mut piece, mut room) = (Vec::new(), [0; PAGE], FIRST_PIECE);
    while text.len() < libc::PATH_MAX as usize {
        // Not over the end of a page: nothing may be behind it.
        let count = read(&mut piece[..room.min(PAGE - (at % PAGE as u64) as usize)], at)?;
        let end = piece[..count].iter().position(|byte| *byte == 0);
        text.extend_from_slice(&piece[..end.unwrap_or(count)]);
        if count == 0 || (text.len() >= 5 || end.is_some()) && !may_be(&text) {
            return Ok(None);
        }
        if end.is_some() {
            return Ok(Some(text));
        }
        at += count as u64;
        room = PAGE;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CString;

    #[test]
    fn texts_are_read_as_far_as_they_may_matter() {
        let own = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
        let reader = Reader::default();
        let found = |text: &str, may_be: bool| {
            let text = CString::new(text).unwrap();
            reader.text(own, text.as_ptr() as u64, &|_| may_be)
        };
        let long = format!("/proc/{}", "x".repeat(3000));
        for text in ["", "/", "/proc", "/proc/self/status", &long] {
            assert_eq!(found(text, true).as_deref(), Some(text.as_bytes()), "{}", text.len());
            assert_eq!(found(text, false), None);
        }
        assert_eq!(found(&"x".repeat(5000), true), None, "longer than paths are");
        assert_eq!(reader.text(own, 8, &|_| true), None, "nothing is there");
        assert_eq!(reader.text(u32::MAX >> 2, 8, &|_| true), None, "nobody is there");
    }
}
