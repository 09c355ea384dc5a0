//! Programs for other processors: which of them the kernel hands to an emulator, and an emulator for the others.
//!
//! What the kernel does with a foreign program is its registry of interpreters (`binfmt_misc`), which containers mostly
//! cannot read. So a program of each processor is tried that does nothing but end.

use cooper_oci::Platform;
use cooper_sandbox::{ContainerMount, ContainerSpec, MountKind, ProcessSpec};
use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Where a step finds an emulator that the kernel does not know of.
const PLACE: &str = "/dev/.buildkit_qemu_emulator";
/// Where the programs begin in memory.
const BASE: u64 = 0x10000;
/// Attempts at a program that is still open for writing, in a child that another thread is just starting.
const ATTEMPTS: usize = 5;

/// A processor, and the program that ends with success on it: `exit(0)` as its system call convention has it.
struct Processor {
    /// In platforms.
    architecture: &'static str,
    variant: &'static str,
    /// In the names of QEMU's programs.
    qemu: &'static str,
    /// `e_machine` and `e_flags` of ELF (the psABI of each).
    machine: u16,
    flags: u32,
    wide: bool,
    big_endian: bool,
    code: &'static [u8],
}

#[rustfmt::skip]
const PROCESSORS: &[Processor] = &[
    Processor { architecture: "amd64", variant: "", qemu: "x86_64", machine: 62, flags: 0, wide: true, big_endian: false,
        code: b"\xb8\x3c\x00\x00\x00\x31\xff\x0f\x05" },
    Processor { architecture: "arm64", variant: "", qemu: "aarch64", machine: 183, flags: 0, wide: true, big_endian: false,
        code: b"\xa8\x0b\x80\xd2\x00\x00\x80\xd2\x01\x00\x00\xd4" },
    Processor { architecture: "riscv64", variant: "", qemu: "riscv64", machine: 243, flags: 0, wide: true, big_endian: false,
        code: b"\x93\x08\xd0\x05\x13\x05\x00\x00\x73\x00\x00\x00" },
    Processor { architecture: "ppc64le", variant: "", qemu: "ppc64le", machine: 21, flags: 2, wide: true, big_endian: false,
        code: b"\x01\x00\x00\x38\x00\x00\x60\x38\x02\x00\x00\x44" },
    Processor { architecture: "s390x", variant: "", qemu: "s390x", machine: 22, flags: 0, wide: true, big_endian: true,
        code: b"\xa7\x29\x00\x00\x0a\x01" },
    Processor { architecture: "mips64le", variant: "", qemu: "mips64el", machine: 8, flags: 0x8000_0007, wide: true, big_endian: false,
        code: b"\xc2\x13\x02\x24\x00\x00\x04\x24\x0c\x00\x00\x00" },
    Processor { architecture: "mips64", variant: "", qemu: "mips64", machine: 8, flags: 0x8000_0007, wide: true, big_endian: true,
        code: b"\x24\x02\x13\xc2\x24\x04\x00\x00\x00\x00\x00\x0c" },
    Processor { architecture: "loong64", variant: "", qemu: "loongarch64", machine: 258, flags: 0x43, wide: true, big_endian: false,
        code: b"\x0b\x74\x81\x02\x04\x00\x80\x02\x00\x00\x2b\x00" },
    Processor { architecture: "arm", variant: "v7", qemu: "arm", machine: 40, flags: 0x0500_0400, wide: false, big_endian: false,
        code: b"\x01\x70\xa0\xe3\x00\x00\xa0\xe3\x00\x00\x00\xef" },
];

impl Processor {
    /// An executable of one segment, header and code (System V gABI, chapter 4).
    fn program(&self) -> Vec<u8> {
        let number = |value: u64, bytes: usize| {
            let all = value.to_be_bytes();
            let mut number = all[all.len() - bytes..].to_vec();
            if !self.big_endian {
                number.reverse();
            }
            number
        };
        let (word, header, segment) = if self.wide { (8, 64, 56) } else { (4, 52, 32) };
        let size = (header + segment + self.code.len()) as u64;
        let mut elf = b"\x7fELF".to_vec();
        elf.extend([if self.wide { 2 } else { 1 }, if self.big_endian { 2 } else { 1 }, 1]);
        elf.resize(16, 0);
        for (value, bytes) in [
            (2, 2), // an executable
            (self.machine.into(), 2),
            (1, 4),
            (BASE + (header + segment) as u64, word), // entry
            (header as u64, word),                    // segments
            (0, word),                                // sections: none
            (self.flags.into(), 4),
            (header as u64, 2),
            (segment as u64, 2),
            (1, 2),
            (0, 2),
            (0, 2),
            (0, 2),
        ] {
            elf.extend(number(value, bytes));
        }
        // Readable and executable, loaded from the beginning of the file. The flags stand in another place in 32 bits.
        elf.extend(number(1, 4));
        if self.wide {
            elf.extend(number(5, 4));
        }
        for value in [0, BASE, BASE, size, size] {
            elf.extend(number(value, word));
        }
        if !self.wide {
            elf.extend(number(5, 4));
        }
        elf.extend(number(BASE, word));
        elf.extend(self.code);
        elf
    }

    /// Writes the program into a directory.
    fn install(&self, dir: &Path) -> io::Result<PathBuf> {
        let path = dir.join(format!("probe-{}", self.architecture));
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o755).open(&path)?;
        file.write_all(&self.program())?;
        Ok(path)
    }

    /// Whether the program runs here.
    fn runs(&self, dir: &Path) -> io::Result<bool> {
        let path = self.install(dir)?;
        let run = || Command::new(&path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        let busy = |e: &io::Error| e.kind() == io::ErrorKind::ExecutableFileBusy;
        let mut outcome = run();
        for _ in 1..ATTEMPTS {
            if !outcome.as_ref().is_err_and(busy) {
                break;
            }
            std::thread::yield_now();
            outcome = run();
        }
        fs::remove_file(&path)?;
        Ok(outcome.is_ok_and(|status| status.success()))
    }
}

/// Whether this machine's processor runs programs for a platform itself.
fn native(platform: &Platform) -> bool {
    let (own, wanted) = (Platform::host().architecture, platform.architecture.as_str());
    own == wanted || matches!((own.as_str(), wanted), ("amd64", "386") | ("arm64", "arm"))
}

/// What this machine does with programs for other processors.
#[derive(Debug, Default)]
pub(crate) struct Emulation {
    /// What the kernel hands to an emulator.
    platforms: Vec<Platform>,
}

impl Emulation {
    /// Tries every processor, in a directory that programs can be run from.
    pub fn probe(dir: &Path) -> Self {
        let platform = |p: &Processor| Platform::new("linux", p.architecture, p.variant);
        let foreign = PROCESSORS.iter().filter(|p| !native(&platform(p)));
        let runs = |p: &&Processor| {
            p.runs(dir).unwrap_or_else(|error| {
                tracing::debug!(%error, architecture = p.architecture, "emulation cannot be tried");
                false
            })
        };
        Self { platforms: foreign.filter(runs).map(platform).collect() }
    }

    /// Platforms whose programs the kernel hands to an emulator.
    pub fn platforms(&self) -> &[Platform] {
        &self.platforms
    }

    /// Makes a step for another processor work if it can be, and says that it is emulated. `None`: it is for this one.
    pub fn arrange(&self, platform: &Platform, spec: &mut ContainerSpec, process: &mut ProcessSpec) -> Option<String> {
        if platform.os != "linux" || native(platform) {
            return None;
        }
        let says =
            |how: &str| Some(format!("this step is for {platform}: it is emulated by {how}, which takes its time\n"));
        if self.platforms.iter().any(|known| known.architecture == platform.architecture) {
            return says("an interpreter that the kernel calls (binfmt_misc)");
        }
        let processor = PROCESSORS.iter().find(|p| p.architecture == platform.architecture)?;
        let name = format!("buildkit-qemu-{}", processor.qemu);
        let source = in_path(&name)?;
        let kind = MountKind::Host { source };
        spec.mounts.push(ContainerMount { dest: PLACE.into(), kind, readonly: true });
        process.args.insert(0, PLACE.to_owned());
        says(&name)
    }
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_end_with_success() {
        let dir = tempfile::tempdir().unwrap();
        for processor in PROCESSORS {
            let file = processor.install(dir.path()).unwrap();
            let qemu = format!("qemu-{}-static", processor.qemu);
            let status = Command::new(&qemu).arg(&file).status().expect("qemu-user-static is installed");
            assert!(status.success(), "{qemu}: {status}");
        }
    }

    #[test]
    fn the_kernel_is_asked_by_trying() {
        let dir = tempfile::tempdir().unwrap();
        for processor in PROCESSORS.iter().filter(|p| p.architecture == Platform::host().architecture) {
            assert!(processor.runs(dir.path()).unwrap());
        }
        let unknown = Processor { machine: 0xfeed, ..PROCESSORS[0] };
        assert!(!unknown.runs(dir.path()).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
    }
}
