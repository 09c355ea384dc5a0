//! The system call filter of a build step: the field's default profile, for the default capabilities.
//!
//! An allow list. What isn't in it fails with `EPERM`, except calls for which programs have a fallback that they
//! take on `ENOSYS` alone: `clone3`, and calls newer than the list. The filter covers the machine's own architecture
//! and its 32-bit companion, whose programs run here too.
//!
//! The filter is assembled here and not by a library because it spans two architectures and has two kinds of refusal.

mod bpf;
mod pick;
mod profile;
mod table;

pub(crate) use pick::{Picked, pick};
pub(crate) use profile::profile;

use bpf::{Insn, Leaf, decide};
use std::sync::OnceLock;

/// Names of the columns of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(test), allow(dead_code, reason = "each machine uses two of them"))]
enum Arch {
    X86_64 = 0,
    X86 = 1,
    Aarch64 = 2,
    Arm = 3,
}

impl Arch {
    /// `AUDIT_ARCH_*` of `linux/audit.h`.
    const fn audit(self) -> u32 {
        match self {
            Self::X86_64 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// What programs of this machine can be built for.
    #[cfg(target_arch = "x86_64")]
    const HERE: [Self; 2] = [Self::X86_64, Self::X86];
    /// What programs of this machine can be built for.
    #[cfg(target_arch = "aarch64")]
    const HERE: [Self; 2] = [Self::Aarch64, Self::Arm];
}

/// `SECCOMP_RET_ALLOW`
const ALLOW: u32 = 0x7fff_0000;
/// `SECCOMP_RET_ERRNO`, or-ed with the error.
const ERRNO: u32 = 0x0005_0000;
const REFUSE: u32 = ERRNO | libc::EPERM as u32;
const UNKNOWN: u32 = ERRNO | libc::ENOSYS as u32;

/// `CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}`: namespaces are for those who may administer the machine.
const CLONE_NEW: u32 = 0x7e02_0000;

/// `AF_ALG`, `AF_VSOCK`: reach into the kernel and out of the machine.
const REFUSED_FAMILIES: [u32; 2] = [38, 40];

/// `PER_LINUX`, `PER_LINUX32`, `UNAME26`, both together, and the query.
const PERSONALITIES: [u32; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The filter for this machine; assembled once.
pub(crate) fn filter() -> &'static [libc::sock_filter] {
    static FILTER: OnceLock<Vec<libc::sock_filter>> = OnceLock::new();
    FILTER.get_or_init(|| assemble(&Arch::HERE).into_iter().map(Insn::encode).collect())
}

fn assemble(arches: &[Arch]) -> Vec<Insn> {
    let mut code = vec![Insn::LoadArch];
    for arch in arches {
        let body = for_arch(*arch);
        code.push(Insn::JumpEq { k: arch.audit(), yes: 1, no: 0 });
        code.push(Insn::Jump(body.len() as u32));
        code.extend(body);
    }
    code.push(Insn::Return(REFUSE));
    code
}

/// The decision for one architecture: a binary search over ranges of numbers.
fn for_arch(arch: Arch) -> Vec<Insn> {
    let mut numbers: Vec<(u32, Leaf)> = table::ALLOWED
        .iter()
        .filter(|(_, numbers)| numbers[arch as usize] != table::ABSENT)
        .map(|(name, numbers)| (numbers[arch as usize], rule(name)))
        .collect();
    numbers.sort_by_key(|(number, _)| *number);
    numbers.dedup_by_key(|(number, _)| *number);
    let mut ranges = Vec::new();
    let mut next = 0;
    for (number, leaf) in numbers {
        if number > next {
            ranges.push((next, gap(next)));
        }
        // A gap that reaches past the newest known call changes its answer there.
        if next <= table::NEWEST && number > table::NEWEST + 1 {
            ranges.push((table::NEWEST + 1, Leaf::Return(UNKNOWN)));
        }
        ranges.push((number, leaf));
        next = number + 1;
    }
    ranges.push((next, gap(next)));
    if next <= table::NEWEST {
        ranges.push((table::NEWEST + 1, Leaf::Return(UNKNOWN)));
    }
    ranges.dedup_by(|later, earlier| later.1 == earlier.1);
    let mut code = vec![Insn::LoadNumber];
    code.extend(decide(&ranges));
    code
}

/// The answer to numbers which aren't in the list.
fn gap(from: u32) -> Leaf {
    Leaf::Return(if from <= table::NEWEST { REFUSE } else { UNKNOWN })
}

/// The answer to a call of the list.
fn rule(name: &str) -> Leaf {
    match name {
        "clone3" => Leaf::Return(UNKNOWN),
        "clone" => Leaf::NoBits { arg: 0, bits: CLONE_NEW, yes: ALLOW, no: REFUSE },
        "socket" => Leaf::NoneOf { arg: 0, values: &REFUSED_FAMILIES, yes: ALLOW, no: REFUSE },
        "personality" => Leaf::OneOf { arg: 0, values: &PERSONALITIES, yes: ALLOW, no: REFUSE },
        _ => Leaf::Return(ALLOW),
    }
}

#[cfg(test)]
mod tests {
    use super::bpf::{Call, run};
    use super::*;

    fn code(arch: Arch) -> Vec<Insn> {
        if matches!(arch, Arch::X86 | Arch::X86_64) {
            assemble(&[Arch::X86_64, Arch::X86])
        } else {
            assemble(&[Arch::Aarch64, Arch::Arm])
        }
    }

    #[test]
    fn every_number_gets_the_answer_of_the_table() {
        for arch in [Arch::X86_64, Arch::X86, Arch::Aarch64, Arch::Arm] {
            let code = code(arch);
            for number in (0..2000).chain(0x0f_0000..0x0f_0010) {
                let listed = table::ALLOWED.iter().find(|(_, n)| n[arch as usize] == number);
                let expected = match listed {
                    Some((name, _)) if *name == "clone3" => UNKNOWN,
                    Some(_) => ALLOW,
                    None if number > table::NEWEST => UNKNOWN,
                    None => REFUSE,
                };
                let call = Call { arch: arch.audit(), number, args: [0; 6] };
                assert_eq!(run(&code, &call), expected, "{arch:?} {number} {listed:?}");
            }
        }
    }

    #[test]
    fn arguments_decide() {
        let cases = [
            ("clone of a process", 56, 0x11, ALLOW),
            ("clone with a user namespace", 56, 0x1000_0011, REFUSE),
            ("clone with a mount namespace", 56, 0x0002_0000, REFUSE),
            ("socket of the internet", 41, 2, ALLOW),
            ("socket into the kernel's ciphers", 41, 38, REFUSE),
            ("socket between machine and guest", 41, 40, REFUSE),
            ("socket with garbage in the upper half", 41, 0xffff_0000_0000_0028, REFUSE),
            ("query of the personality", 135, 0xffff_ffff, ALLOW),
            ("personality without address randomisation", 135, 0x0004_0000, REFUSE),
            ("mount", 165, 0, REFUSE),
            ("unshare", 272, 0, REFUSE),
            ("keyctl", 250, 0, REFUSE),
            ("bpf", 321, 0, REFUSE),
            ("chroot", 161, 0, ALLOW),
            ("the x32 interface", 0x4000_0000, 0, UNKNOWN),
        ];
        for (what, number, arg, expected) in cases {
            let call = Call { arch: Arch::X86_64.audit(), number, args: [arg, 0, 0, 0, 0, 0] };
            assert_eq!(run(&code(Arch::X86_64), &call), expected, "{what}");
        }
    }

    #[test]
    fn a_foreign_architecture_is_refused() {
        let code = assemble(&[Arch::X86_64, Arch::X86]);
        assert_eq!(run(&code, &Call { arch: Arch::Arm.audit(), number: 1, args: [0; 6] }), REFUSE);
        assert!(code.len() < 4096, "the kernel takes at most 4096 instructions: {}", code.len());
    }
}
