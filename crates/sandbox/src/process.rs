//! From a [`ProcessSpec`] to the last steps of a child's program: identity, limits, streams, the program itself.

use crate::capabilities;
use crate::child::{Failure, NO_SUCH_PROGRAM, Program, Step};
use crate::error::{Error, Result};
use crate::io::{Output, ProcessIo, Stdin};
use crate::limits;
use crate::raw::StringArray;
use crate::seccomp;
use crate::spec::{ProcessSpec, Security, WinSize};
use crate::userns;
use cooper_rooted::Root;
use cooper_rooted::passwd::{self, ExecUser};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use rustix::thread::CapabilitySet;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

/// Where programs are looked up when the environment doesn't say.
pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Group of terminals, as distributions number it.
pub(crate) const TTY_GROUP: u32 = 5;

/// What holds a process beside its namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shield<'a> {
    /// The default capabilities, the system call filter, and a profile of AppArmor if one is wanted.
    Full(Option<&'a str>),
    /// The default capabilities without those that lead out of a changed root. A filter can't be had without privilege.
    Capabilities,
    /// Neither.
    Nothing,
}

impl<'a> Shield<'a> {
    /// In namespaces.
    pub(crate) fn of(security: Security, apparmor: Option<&'a str>) -> Self {
        match security {
            Security::Sandboxed => Self::Full(apparmor),
            Security::Insecure => Self::Nothing,
        }
    }
}

/// Owned by the program's steps, but for the controlling side of the terminal.
pub(crate) struct Streams {
    standard: [Arc<OwnedFd>; 3],
    terminal: bool,
    /// The controlling side.
    pub(crate) master: Option<OwnedFd>,
}

impl Streams {
    /// Input, output and reports of a process without a terminal.
    pub(crate) fn given(standard: [OwnedFd; 3]) -> Self {
        Self { standard: standard.map(Arc::new), terminal: false, master: None }
    }

    /// The step that gives them to the process.
    pub(crate) fn session(&self) -> Step {
        Step::Session { streams: self.standard.clone(), terminal: self.terminal }
    }
}

/// Who the process runs as, from the container's own files.
pub(crate) fn identity(root: &Arc<OwnedFd>, spec: &ProcessSpec) -> Result<ExecUser> {
    let root = root.try_clone().map_err(Error::setup("duplicate the root's descriptor"))?;
    let mut user = passwd::exec_user(&Root::from_fd(root), &spec.user)?;
    for group in [user.gid].iter().chain(&spec.extra_groups) {
        if !user.groups.contains(group) {
            user.groups.push(*group);
        }
    }
    Ok(user)
}

/// Opens what the process reads from and writes to. A non-root process must be able to open `/dev/stdout` anew,
/// which is a pipe that belongs to whoever made it, so pipes are given to it.
pub(crate) fn streams(
    spec: &ProcessSpec,
    user: &ExecUser,
    io: ProcessIo,
    terminals: Option<&Arc<OwnedFd>>,
) -> Result<Streams> {
    if let (Some(size), Some(terminals)) = (spec.tty, terminals) {
        return terminal(size, user, terminals);
    }
    let null = || {
        let fd = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        fd.map_err(|e| Error::Setup { step: "open /dev/null".into(), source: e.into() })
    };
    let output = |output| match output {
        Output::Null => null(),
        Output::Fd(fd) => Ok(fd),
    };
    let stdin = match io.stdin {
        Stdin::Null => null()?,
        Stdin::Fd(fd) => fd,
    };
    let standard = [stdin, output(io.stdout)?, output(io.stderr)?];
    if user.uid != 0 {
        for stream in &standard {
            let stat = rustix::fs::fstat(stream).map_err(|e| Error::setup("look at a stream")(e.into()))?;
            if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Fifo {
                // A descriptor of a kind that can't be given away works all the same.
                let _ = rustix::fs::fchown(stream, Some(Uid::from_raw(user.uid)), None);
            }
        }
    }
    Ok(Streams { standard: standard.map(Arc::new), terminal: false, master: None })
}

fn terminal(size: WinSize, user: &ExecUser, terminals: &Arc<OwnedFd>) -> Result<Streams> {
    let failed = |step: &'static str| move |e: rustix::io::Errno| Error::setup(step)(e.into());
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = rustix::fs::openat(terminals, c"ptmx", flags, Mode::empty()).map_err(failed("open a terminal"))?;
    rustix::pty::unlockpt(&master).map_err(failed("unlock the terminal"))?;
    let peer = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, peer).map_err(failed("open the terminal's other side"))?;
    set_size(&master, size).map_err(Error::setup("set the terminal's size"))?;
    let (owner, group) = (Uid::from_raw(user.uid), Gid::from_raw(TTY_GROUP));
    match rustix::fs::fchown(&slave, Some(owner), Some(group)) {
        // In a user namespace the group may not exist; the user is what matters.
        Err(rustix::io::Errno::INVAL) => rustix::fs::fchown(&slave, Some(owner), None),
        other => other,
    }
    .map_err(failed("give the terminal to the user"))?;
    let flags = rustix::fs::fcntl_getfl(&master).map_err(failed("read the terminal's flags"))?;
    rustix::fs::fcntl_setfl(&master, flags | OFlags::NONBLOCK).map_err(failed("set the terminal's flags"))?;
    let slave = Arc::new(slave);
    Ok(Streams { standard: [slave.clone(), slave.clone(), slave], terminal: true, master: Some(master) })
}

/// Tells a terminal its size.
pub(crate) fn set_size(master: &OwnedFd, size: WinSize) -> std::io::Result<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(master, size)?)
}

/// Appends what turns the child into the process.
pub(crate) fn finish(
    program: &mut Program,
    spec: &ProcessSpec,
    user: &ExecUser,
    streams: &Streams,
    cwd: &Path,
    shield: Shield<'_>,
) -> Result<()> {
    shielded(program, spec, user, streams, cwd, shield)?;
    let env = environment(spec, user);
    let env: Vec<_> = env.iter().map(|e| c_string("environment", e.as_bytes())).collect::<Result<_>>()?;
    let args: Vec<_> = spec.args.iter().map(|arg| c_string("argument", arg.as_bytes())).collect::<Result<_>>()?;
    let candidates = candidates(spec)?;
    program.push(Step::Execute { candidates, args: StringArray::new(args), env: StringArray::new(env) });
    Ok(())
}

/// All of that but the program itself.
///
/// The order matters: limits and the filter need privileges, the keyring call isn't allowed by the filter, the working
/// directory may be closed to the user.
pub(crate) fn shielded(
    program: &mut Program,
    spec: &ProcessSpec,
    user: &ExecUser,
    streams: &Streams,
    cwd: &Path,
    shield: Shield<'_>,
) -> Result<()> {
    for limit in &spec.ulimits {
        let (resource, value) = limits::parse(limit)?;
        program.push(Step::Limit(resource, value));
    }
    program.push(Step::Cleanse);
    program.push(streams.session());
    program.push(Step::WorkingDirectory(c_string("working directory", cwd.as_os_str().as_bytes())?));
    if let Shield::Full(apparmor) = shield {
        if let Some(profile) = apparmor {
            program.push(Step::Confine(c_string("AppArmor profile", format!("exec {profile}").as_bytes())?));
        }
        program.push(Step::Filter(seccomp::filter()));
    }
    if shield != Shield::Nothing {
        let mut keep = capabilities::DEFAULT & capabilities::own()?;
        if shield == Shield::Capabilities {
            // The ways out of a changed root.
            keep -= CapabilitySet::SYS_CHROOT | CapabilitySet::MKNOD;
        }
        program.push(Step::Capabilities { keep, last: capabilities::last() });
    }
    let groups = userns::may_set_groups().then(|| user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect());
    program.push(Step::Identity { uid: user.uid, gid: user.gid, groups });
    program.push(Step::DieWithStarter);
    Ok(())
}

/// The environment of the process: what it was given, and where its user is at home.
pub(crate) fn environment(spec: &ProcessSpec, user: &ExecUser) -> Vec<String> {
    let mut env = spec.env.clone();
    if !env.iter().any(|e| e.starts_with("HOME=")) {
        let home = user.home.as_deref().filter(|h| !h.is_empty()).unwrap_or("/");
        env.push(format!("HOME={home}"));
    }
    env
}

/// The files that the program's name can mean, in order.
fn candidates(spec: &ProcessSpec) -> Result<Vec<CString>> {
    let Some(name) = spec.args.first() else { return Err(Error::Invalid("a process needs a program to run".into())) };
    if name.contains('/') {
        return Ok(vec![c_string("argument", name.as_bytes())?]);
    }
    if name.is_empty() {
        return Ok(Vec::new());
    }
    let path = spec.env.iter().rev().find_map(|e| e.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    path.split(':')
        .map(|dir| if dir.is_empty() { "." } else { dir })
        .map(|dir| c_string("PATH", format!("{}/{name}", dir.trim_end_matches('/')).as_bytes()))
        .collect()
}

pub(crate) fn c_string(what: &str, bytes: &[u8]) -> Result<CString> {
    CString::new(bytes)
        .map_err(|_| Error::Invalid(format!("{what} {:?} contains a zero byte", String::from_utf8_lossy(bytes))))
}

/// What a child's failure means to the user.
pub(crate) fn explain(failure: Failure<'_>, spec: &ProcessSpec) -> Error {
    let (step, source) = match failure {
        Failure::Clone(source) => {
            return Error::Setup { step: "create the process with its namespaces".into(), source };
        }
        Failure::Step(step, source) => (step, source),
    };
    let quoted = |c: &CString| format!("{:?}", c.to_string_lossy());
    let text = match step {
        Step::Execute { .. } => return Error::Exec(exec_message(spec, &source)),
        Step::Attach(_, target) | Step::AttachSlot { target, .. } => {
            return Error::Mount { dest: target.to_string_lossy().into_owned().into(), source };
        }
        Step::NewMount { target, .. } => {
            return Error::Mount { dest: target.to_string_lossy().into_owned().into(), source };
        }
        Step::MakeMount { kind, .. } => format!("make a file system of kind {}", kind.to_string_lossy()),
        Step::Take { subpath, .. } => format!("find {} in the mounted tree", quoted(subpath)),
        Step::DieWithStarter => "tie the process to the builder".to_owned(),
        Step::JoinCgroup(_) => "join the cgroup".to_owned(),
        Step::NewCgroupNamespace => "make a cgroup namespace".to_owned(),
        Step::Enter(..) => "enter the namespace".to_owned(),
        Step::LoopbackUp => "bring the loopback interface up".to_owned(),
        Step::Hostname(name) => format!("set the host name {}", quoted(name)),
        Step::PrivateMounts => "separate the mounts".to_owned(),
        Step::Stage(_, at) => format!("attach a tree at {}", quoted(at)),
        Step::Meet(..) => "hear from whoever runs hooks".to_owned(),
        Step::AttachRoot(..) => "attach the root".to_owned(),
        Step::EnterRoot(..) | Step::EnterHere | Step::ChangeRoot(_) => "change the root".to_owned(),
        Step::Mask(path) => format!("mask {}", path.to_string_lossy()),
        Step::ReadOnly(path) => format!("make {} read-only", path.to_string_lossy()),
        Step::Limit(resource, value) => limits::describe(*resource, *value),
        Step::Session { .. } => "start a session".to_owned(),
        Step::Cleanse => "reset the process state".to_owned(),
        Step::Confine(_) => "confine the process by the AppArmor profile (is it loaded?)".to_owned(),
        Step::Filter(_) => "install the system call filter".to_owned(),
        Step::Lend { .. } => "say who answers for /proc".to_owned(),
        Step::Capabilities { .. } => "drop capabilities".to_owned(),
        Step::Identity { uid, gid, .. } => format!("become user {uid} and group {gid}"),
        Step::WorkingDirectory(path) => format!("change to the working directory {}", quoted(path)),
    };
    Error::Setup { step: text, source }
}

/// The texts of runtimes, which people and tools know, with the reason where they leave one guessing.
fn exec_message(spec: &ProcessSpec, error: &std::io::Error) -> String {
    let name = spec.args.first().map_or("", String::as_str);
    match error.raw_os_error() {
        Some(code) if code == NO_SUCH_PROGRAM.raw_os_error() => {
            if name.contains('/') {
                format!("exec: {name:?}: stat {name}: no such file or directory")
            } else {
                format!("exec: {name:?}: executable file not found in $PATH")
            }
        }
        Some(libc::EISDIR) => format!("exec: {name:?}: is a directory"),
        Some(libc::EACCES) => format!("exec: {name:?}: permission denied"),
        Some(libc::ENOENT) => format!(
            "exec {name}: no such file or directory: the program exists, its interpreter or loader \
             (first line of a script, or the dynamic loader) does not"
        ),
        Some(libc::ENOEXEC) => format!(
            "exec {name}: exec format error: the program is built for another architecture, or is a script without #!"
        ),
        Some(libc::E2BIG) => format!("exec {name}: argument list too long"),
        _ => format!("exec {name}: {error}"),
    }
}
