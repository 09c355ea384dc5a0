//! `WORKDIR`: where later commands and containers run. The directory is made.

use super::{Error, StageRun};
use crate::instruction::Workdir;
use crate::lower::findings::FindingKind;
use crate::lower::paths;
use cooper_llb::{Action, Mkdir, Owner, file, path};

pub(in crate::lower) fn lower(run: &mut StageRun<'_>, workdir: &Workdir) -> Result<(), Error> {
    let to = run.expand(&workdir.path.text)?;
    // Where a base image leaves off may change; only the first directory of a file can depend on that.
    if !run.state.workdir_set && !paths::is_absolute(&to, &run.state.platform.os) {
        run.find(FindingKind::WorkdirRelativePath { path: to.clone() });
    }
    run.state.workdir_set = true;
    run.set_workdir(&to)?;
    let dir = run.state.dir.clone();
    let made = dir != "/";
    if made {
        let user = &run.state.image.config.user;
        let mkdir = Mkdir {
            path: path::clean(&dir),
            mode: 0o755,
            make_parents: true,
            owner: (!user.is_empty()).then(|| Owner::parse(user)),
            timestamp: run.shared.epoch.map(|seconds| seconds.saturating_mul(1_000_000_000)),
        };
        let text = run.shown(run.shared.rules, &workdir.head.text);
        let name = run.next_step(&text);
        // A directory is made again in no time: `no-cache` does not bother.
        let mut meta = run.meta(name);
        meta.ignore_cache = false;
        run.state.output = file(&run.state.output, vec![Action::Mkdir(mkdir)], meta);
    }
    run.commit(format!("WORKDIR {dir}"), made, false);
    Ok(())
}
