//! A filter that picks system calls for somebody else to answer (seccomp_unotify(2)), and lets all others through.

use super::bpf::Insn;
use super::{ALLOW, Arch};

/// A call that is picked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Picked {
    pub number: u32,
    /// The first argument is a directory to begin at: picked only when that is the working directory, as it is where a path
    /// is given from the root on.
    pub at: bool,
}

/// The filter. Programs for the 32-bit companion of this machine get the kernel's own answers.
pub(crate) fn pick(calls: impl IntoIterator<Item = Picked>) -> Vec<libc::sock_filter> {
    assemble(calls).into_iter().map(Insn::encode).collect()
}

fn assemble(calls: impl IntoIterator<Item = Picked>) -> Vec<Insn> {
    let own = Arch::HERE[0].audit();
    let mut code = vec![Insn::LoadArch, Insn::JumpEq { k: own, yes: 1, no: 0 }, Insn::Return(ALLOW), Insn::LoadNumber];
    for call in calls {
        let body: &[Insn] = if call.at {
            &[
                Insn::LoadArg(0),
                Insn::JumpEq { k: libc::AT_FDCWD as u32, yes: 0, no: 1 },
                Insn::Return(libc::SECCOMP_RET_USER_NOTIF),
                Insn::Return(ALLOW),
            ]
        } else {
            &[Insn::Return(libc::SECCOMP_RET_USER_NOTIF)]
        };
        code.push(Insn::JumpEq { k: call.number, yes: 0, no: body.len() as u8 });
        code.extend(body);
    }
    code.push(Insn::Return(ALLOW));
    code
}

#[cfg(test)]
mod tests {
    use super::super::bpf::{Call, run};
    use super::*;

    #[test]
    fn only_paths_that_may_begin_at_the_root_are_picked() {
        let code = assemble([Picked { number: 2, at: false }, Picked { number: 257, at: true }]);
        let (own, other, here) = (Arch::HERE[0].audit(), Arch::HERE[1].audit(), libc::AT_FDCWD as u64);
        for (arch, number, first, answer) in [
            (own, 2, 0, libc::SECCOMP_RET_USER_NOTIF),
            (own, 257, here, libc::SECCOMP_RET_USER_NOTIF),
            (own, 257, here & 0xffff_ffff, libc::SECCOMP_RET_USER_NOTIF),
            (own, 257, 5, ALLOW),
            (own, 1, here, ALLOW),
            (other, 2, 0, ALLOW),
        ] {
            assert_eq!(run(&code, &Call { arch, number, args: [first, 0, 0, 0, 0, 0] }), answer, "{number} {first}");
        }
    }
}
