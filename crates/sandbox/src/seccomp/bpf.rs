//! Just enough of classic BPF to decide by system call number and arguments (seccomp(2), bpf(4)).

/// One instruction. Jump distances count from the next instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Insn {
    LoadArch,
    LoadNumber,
    /// The lower half of an argument, which is all that the decisions look at: the kernel takes an `int` there.
    LoadArg(u8),
    Jump(u32),
    JumpEq {
        k: u32,
        yes: u8,
        no: u8,
    },
    JumpGe {
        k: u32,
        yes: u8,
        no: u8,
    },
    /// Any of these bits.
    JumpSet {
        k: u32,
        yes: u8,
        no: u8,
    },
    Return(u32),
}

impl Insn {
    /// As the kernel reads it.
    pub(super) fn encode(self) -> libc::sock_filter {
        // BPF_LD|BPF_W|BPF_ABS, BPF_JMP|{JA,JEQ,JGE,JSET}|BPF_K, BPF_RET|BPF_K of linux/bpf_common.h; the loads
        // address `struct seccomp_data`, whose arguments are 64 bits wide (both architectures are little-endian).
        let (code, jt, jf, k) = match self {
            Self::LoadNumber => (0x20, 0, 0, 0),
            Self::LoadArch => (0x20, 0, 0, 4),
            Self::LoadArg(n) => (0x20, 0, 0, 16 + 8 * u32::from(n)),
            Self::Jump(k) => (0x05, 0, 0, k),
            Self::JumpEq { k, yes, no } => (0x15, yes, no, k),
            Self::JumpGe { k, yes, no } => (0x35, yes, no, k),
            Self::JumpSet { k, yes, no } => (0x45, yes, no, k),
            Self::Return(k) => (0x06, 0, 0, k),
        };
        libc::sock_filter { code, jt, jf, k }
    }
}

/// What happens to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Leaf {
    /// This, whatever the arguments.
    Return(u32),
    /// `yes` when the argument is none of the values.
    NoneOf { arg: u8, values: &'static [u32], yes: u32, no: u32 },
    /// `yes` when the argument is one of the values.
    OneOf { arg: u8, values: &'static [u32], yes: u32, no: u32 },
    /// `yes` when the argument has none of the bits.
    NoBits { arg: u8, bits: u32, yes: u32, no: u32 },
}

impl Leaf {
    fn code(&self) -> Vec<Insn> {
        let matching = |arg: u8, values: &[u32], hit: u32, miss: u32| {
            let mut code = vec![Insn::LoadArg(arg)];
            for value in values {
                code.extend([Insn::JumpEq { k: *value, yes: 0, no: 1 }, Insn::Return(hit)]);
            }
            code.push(Insn::Return(miss));
            code
        };
        match *self {
            Self::Return(k) => vec![Insn::Return(k)],
            Self::NoneOf { arg, values, yes, no } => matching(arg, values, no, yes),
            Self::OneOf { arg, values, yes, no } => matching(arg, values, yes, no),
            Self::NoBits { arg, bits, yes, no } => {
                vec![Insn::LoadArg(arg), Insn::JumpSet { k: bits, yes: 0, no: 1 }, Insn::Return(no), Insn::Return(yes)]
            }
        }
    }
}

/// Code that finds the last range which starts at or below the loaded number. `ranges` is sorted and starts at 0.
pub(super) fn decide(ranges: &[(u32, Leaf)]) -> Vec<Insn> {
    let [(_, only)] = ranges else {
        let (low, high) = ranges.split_at(ranges.len() / 2);
        let (below, above) = (decide(low), decide(high));
        let k = high[0].0;
        let mut code = match u8::try_from(below.len()) {
            Ok(skip) => vec![Insn::JumpGe { k, yes: skip, no: 0 }],
            Err(_) => vec![Insn::JumpGe { k, yes: 0, no: 1 }, Insn::Jump(below.len() as u32)],
        };
        code.extend(below);
        code.extend(above);
        return code;
    };
    only.code()
}

/// A system call as a filter sees it.
#[cfg(test)]
pub(super) struct Call {
    pub(super) arch: u32,
    pub(super) number: u32,
    pub(super) args: [u64; 6],
}

/// What a filter answers.
#[cfg(test)]
pub(super) fn run(code: &[Insn], call: &Call) -> u32 {
    let (mut at, mut a) = (0, 0);
    loop {
        let insn = code[at];
        at += 1;
        at += match insn {
            Insn::LoadArch => (a = call.arch, 0).1,
            Insn::LoadNumber => (a = call.number, 0).1,
            Insn::LoadArg(n) => (a = call.args[n as usize] as u32, 0).1,
            Insn::Jump(k) => k as usize,
            Insn::JumpEq { k, yes, no } => usize::from(if a == k { yes } else { no }),
            Insn::JumpGe { k, yes, no } => usize::from(if a >= k { yes } else { no }),
            Insn::JumpSet { k, yes, no } => usize::from(if a & k != 0 { yes } else { no }),
            Insn::Return(k) => return k,
        };
    }
}
