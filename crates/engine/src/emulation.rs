//! Programs for other processors: which of them the kernel hands to an emulator, and an emulator for the others.
//!
//! What the kernel does with a foreign program is its registry of interpreters (`binfmt_misc`), which containers mostly
//! cannot read. So a program of each processor is tried, in a step of its own, that does nothing but end. Where the kernel
//! looks for an interpreter in the step, and the registry can be read, the step gets it.

use crate::worker::Worker;
use cooper_mount::Mount;
use cooper_oci::Platform;
use cooper_sandbox::{ContainerMount, ContainerSpec, MountKind, ProcessIo, ProcessSpec, Sandbox};
use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};
use tokio::sync::OnceCell;

/// The registry, where it is mounted.
const REGISTRY: &str = "/proc/sys/fs/binfmt_misc";

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

    /// Makes a directory that has the program and nothing else.
    fn install(&self, dir: &Path) -> io::Result<PathBuf> {
        let root = dir.join(format!("emulation-{}-{}", self.architecture, std::process::id()));
        fs::create_dir_all(&root)?;
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o755).open(root.join("run"))?;
        file.write_all(&self.program())?;
        Ok(root)
    }

    /// How the program runs in a step, if it does.
    async fn tried(&self, sandbox: &dyn Sandbox, dir: &Path, handlers: &[Handler]) -> io::Result<Option<Emulated>> {
        let root = self.install(dir)?;
        let platform = Platform::new("linux", self.architecture, self.variant);
        let mut found = None;
        if runs(sandbox, &root, self.architecture, None).await {
            found = Some(Emulated { platform, interpreter: None });
        } else if let Some(handler) = handlers.iter().find(|handler| handler.takes(&self.program())) {
            // The kernel would look for it in the step.
            if runs(sandbox, &root, self.architecture, Some(&handler.interpreter)).await {
                found = Some(Emulated { platform, interpreter: Some(handler.interpreter.clone()) });
            }
        }
        fs::remove_dir_all(&root)?;
        Ok(found)
    }
}

/// Whether a step that has the program comes to a good end.
async fn runs(sandbox: &dyn Sandbox, root: &Path, name: &str, interpreter: Option<&Path>) -> bool {
    for attempt in 0..ATTEMPTS {
        let id = format!("emulation-{}-{name}-{}-{attempt}", std::process::id(), u8::from(interpreter.is_some()));
        let mut spec = ContainerSpec::new(id, Mount::Bind { source: root.to_owned(), readonly: false });
        spec.network_files = false;
        spec.mounts.extend(interpreter.map(lent));
        spec.remove_stubs_recursive = true;
        let status = match sandbox.start(spec, ProcessSpec::new(["/run"]), ProcessIo::default()).await {
            Ok(container) => container.wait().await,
            Err(error) if error.to_string().contains("busy") => continue,
            Err(error) => Err(error),
        };
        return status
            .inspect_err(|error| tracing::debug!(%error, architecture = name, "programs of this processor do not run"))
            .is_ok_and(|status| status.success());
    }
    false
}

/// A program of the builder at its own path in a step.
fn lent(program: &Path) -> ContainerMount {
    let kind = MountKind::Host { source: program.to_owned() };
    ContainerMount { dest: program.to_owned(), kind, readonly: true }
}

/// An entry of the kernel's registry that says which interpreter runs what begins in some way.
#[derive(Debug, PartialEq, Eq)]
struct Handler {
    interpreter: PathBuf,
    offset: usize,
    magic: Vec<u8>,
    mask: Vec<u8>,
}

impl Handler {
    /// Those that are in force, as far as they can be read here.
    fn all(registry: &Path) -> Vec<Self> {
        let entries = fs::read_dir(registry).into_iter().flatten().flatten();
        entries.filter_map(|entry| Self::parse(&fs::read_to_string(entry.path()).ok()?)).collect()
    }

    /// From the text of one (`Documentation/admin-guide/binfmt-misc.rst` of the kernel); none for one that is disabled or goes
    /// by the name of the file.
    fn parse(text: &str) -> Option<Self> {
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        let bytes = |text: &str| {
            let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok());
            digits.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect::<Option<Vec<_>>>()
        };
        if text.lines().next() != Some("enabled") {
            return None;
        }
        let magic = bytes(value("magic")?)?;
        let mask = value("mask").map_or(Some(vec![0xff; magic.len()]), bytes)?;
        let interpreter = PathBuf::from(value("interpreter")?);
        Some(Self { interpreter, offset: value("offset")?.parse().ok()?, magic, mask })
    }

    /// Whether it is for a program.
    fn takes(&self, program: &[u8]) -> bool {
        let end = self.offset.saturating_add(self.magic.len());
        let Some(part) = program.get(self.offset..end) else { return false };
        part.iter().zip(&self.magic).zip(&self.mask).all(|((byte, magic), mask)| byte & mask == *magic & mask)
    }
}

/// Whether this machine's processor runs programs for a platform itself.
fn native(platform: &Platform) -> bool {
    let (own, wanted) = (Platform::host().architecture, platform.architecture.as_str());
    own == wanted || matches!((own.as_str(), wanted), ("amd64", "386") | ("arm64", "arm"))
}

/// What this machine does with programs for other processors. Found out when somebody wants to know.
#[derive(Debug, Default)]
pub(crate) struct Emulation {
    /// What the kernel hands to an emulator.
    found: OnceCell<Vec<Emulated>>,
}

/// A platform whose programs run in steps.
#[derive(Debug)]
struct Emulated {
    platform: Platform,
    /// What a step must have for that: the kernel only opens it when it is called (an entry without the flag `F`).
    interpreter: Option<PathBuf>,
}

impl Emulation {
    /// Tries every processor once, in steps like all others, from a directory of that worker.
    async fn found(&self, sandbox: &dyn Sandbox, dir: &Path) -> &[Emulated] {
        let find = || async {
            let handlers = Handler::all(Path::new(REGISTRY));
            let platform = |p: &Processor| Platform::new("linux", p.architecture, p.variant);
            let foreign = PROCESSORS.iter().filter(|p| !native(&platform(p)));
            let tried = foreign.map(|processor| {
                let handlers = &handlers;
                async move {
                    processor.tried(sandbox, dir, handlers).await.unwrap_or_else(|error| {
                        tracing::debug!(%error, architecture = processor.architecture, "emulation cannot be tried");
                        None
                    })
                }
            });
            futures::future::join_all(tried).await.into_iter().flatten().collect()
        };
        self.found.get_or_init(find).await
    }

    /// Platforms whose programs the kernel hands to an emulator.
    pub async fn platforms(&self, sandbox: &dyn Sandbox, dir: &Path) -> Vec<Platform> {
        self.found(sandbox, dir).await.iter().map(|emulated| emulated.platform.clone()).collect()
    }

    /// Makes a step for another processor work if it can be, and says that it is emulated. `None`: it is for this one.
    pub async fn arrange(
        &self,
        worker: &Worker,
        platform: &Platform,
        spec: &mut ContainerSpec,
        process: &mut ProcessSpec,
    ) -> Option<String> {
        if platform.os != "linux" || native(platform) {
            return None;
        }
        let says =
            |how: &str| Some(format!("this step is for {platform}: it is emulated by {how}, which takes its time\n"));
        let found = self.found(worker.sandbox.as_ref(), &worker.scratch).await;
        if let Some(known) = found.iter().find(|known| known.platform.architecture == platform.architecture) {
            spec.mounts.extend(known.interpreter.as_deref().map(lent));
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
            let program = processor.install(dir.path()).unwrap().join("run");
            let qemu = format!("qemu-{}-static", processor.qemu);
            let status =
                std::process::Command::new(&qemu).arg(&program).status().expect("qemu-user-static is installed");
            assert!(status.success(), "{qemu}: {status}");
        }
    }

    #[tokio::test]
    async fn the_kernel_is_asked_by_trying() {
        let dir = tempfile::tempdir().unwrap();
        let isolation = cooper_sandbox::Isolation::default();
        let (sandbox, _) = cooper_sandbox::open(&dir.path().join("sandbox"), &isolation).unwrap();
        let roots = dir.path().join("roots");
        for processor in PROCESSORS.iter().filter(|p| p.architecture == Platform::host().architecture) {
            let found = processor.tried(sandbox.as_ref(), &roots, &[]).await.unwrap().unwrap();
            assert_eq!(found.interpreter, None);
        }
        let unknown = Processor { machine: 0xfeed, ..PROCESSORS[0] };
        assert!(unknown.tried(sandbox.as_ref(), &roots, &[]).await.unwrap().is_none());
        assert_eq!(fs::read_dir(roots).unwrap().count(), 0, "nothing is left");
    }

    #[test]
    fn the_registry_says_what_takes_a_program() {
        let entry = "enabled\ninterpreter /usr/bin/qemu-aarch64-static\nflags: OC\noffset 0\n\
                     magic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n";
        let handler = Handler::parse(entry).unwrap();
        assert_eq!(handler.interpreter, Path::new("/usr/bin/qemu-aarch64-static"));
        let taken = PROCESSORS.iter().filter(|p| handler.takes(&p.program())).map(|p| p.architecture);
        assert_eq!(taken.collect::<Vec<_>>(), ["arm64"]);
        let exact = "enabled\ninterpreter /i\nflags: \noffset 1\nmagic 454c46\n";
        assert!(Handler::parse(exact).unwrap().takes(b"\x7fELF") && !Handler::parse(exact).unwrap().takes(b"ELF"));
        for other in [
            "",
            "disabled\ninterpreter /i\nflags: \noffset 0\nmagic 7f\n",
            "enabled\ninterpreter /i\nflags: \nextension .x\n",
        ] {
            assert_eq!(Handler::parse(other), None, "{other:?}");
        }
    }
}
