//! File actions (LLB file op): translated once, run on one snapshot as long as nobody looks in between.

use crate::{
    domain::{Build, FailedPart, Remains, StepError, StepErrorKind},
    layers::tree::Tree,
    worker::{Worker, WriteTree},
};
use async_trait::async_trait;
use cooper_fileop as fileop;
use cooper_fileop::{Executor, Inputs, Links, index::Selector};
use cooper_llb::pb;
use cooper_mount::Mount;
use cooper_oci::{Digest, Digester};
use cooper_solver::{CacheMap, Dependency, Op, OpContext};
use pb::file_action::Action as Kind;
use prost::Message as _;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// A file op bound to a worker.
pub struct FileOp {
    worker: Arc<Worker>,
    file: pb::FileOp,
    unknown: Option<Digest>,
    inputs: usize,
    /// What people see: layers are described by it, and histories that lack an entry for such a layer.
    name: String,
}

/// What an index in an action stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Empty,
    Input(usize),
    Action(usize),
}

impl FileOp {
    /// Binds `file`.
    pub fn new(worker: &Arc<Worker>, file: &pb::FileOp, inputs: usize, unknown: Option<Digest>, name: String) -> Self {
        Self { worker: worker.clone(), file: file.clone(), unknown, inputs, name }
    }

    fn place(&self, index: i64) -> Place {
        match usize::try_from(index) {
            Err(_) => Place::Empty,
            Ok(i) if i < self.inputs => Place::Input(i),
            Ok(i) => Place::Action(i - self.inputs),
        }
    }

    /// Whether an input is nothing but the source of copies.
    fn only_copied(&self, input: usize) -> bool {
        self.file.actions.iter().all(|a| {
            self.place(a.input) != Place::Input(input)
                && owner(a).is_none_or(|o| named_inputs(o).all(|i| self.place(i) != Place::Input(input)))
        })
    }
}

#[async_trait]
impl Op<Build> for FileOp {
    async fn cache_map(&self, _: &OpContext<Build>) -> Result<CacheMap, StepError> {
        let mut digester = Digester::default();
        digester.update_field("file");
        digester.update_field(self.file.encode_to_vec());
        if let Some(unknown) = &self.unknown {
            digester.update_field(unknown.as_str());
        }
        let dependency = |i| Dependency { selector: String::new(), content: self.only_copied(i) };
        let dependencies = (0..self.inputs).map(dependency).collect();
        Ok(CacheMap { digest: digester.finish(), dependencies, volatile: false })
    }

    async fn content_digest(&self, input: usize, tree: &Tree, cx: &OpContext<Build>) -> Result<Digest, StepError> {
        let copies = self.file.actions.iter().filter(|a| self.place(a.secondary_input) == Place::Input(input));
        let mut selectors = Vec::new();
        for copy in copies {
            if let Some(kind @ Kind::Copy(_)) = &copy.action
                && let fileop::Action::Copy(copy) = translate(kind)
            {
                selectors.push(Selector::of(&copy));
            }
        }
        self.worker.content_digest(tree, selectors, cx).await.map_err(|e| e.digesting(input, tree))
    }

    async fn run(&self, inputs: Vec<Tree>, cx: &OpContext<Build>) -> Result<Vec<Option<Tree>>, StepError> {
        let inputs: Vec<Tree> = inputs;
        futures::future::try_join_all(inputs.iter().map(|tree| self.worker.bring(tree, cx))).await?;
        let stop = StopOnDrop(Arc::default());
        let run = Run {
            op: Self {
                worker: self.worker.clone(),
                file: self.file.clone(),
                unknown: None,
                inputs: self.inputs,
                name: self.name.clone(),
            },
            inputs: inputs.clone(),
            states: Vec::new(),
            stop: stop.0.clone(),
            keep: cx.jobs().iter().any(|job| job.keep_failed.load(Ordering::Relaxed)),
        };
        let outcome = tokio::task::spawn_blocking(move || run.all()).await;
        let outcome = outcome.map_err(StepError::while_doing("the file operation ended abnormally"))?;
        outcome.map_err(|failure| {
            let Failure { action, mut error, mounts } = *failure;
            let inputs = inputs.into_iter().map(Some).collect();
            error.remains = Some(Box::new(Remains { inputs, mounts, part: Some(FailedPart::Action(action)) }));
            error
        })
    }
}

/// Tells a running action to stop when its build is gone.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What an action has made.
enum State {
    Writing(Box<WriteTree>, Box<Executor>),
    Done(Tree),
    /// Moved into the action that goes on with it.
    Taken,
}

struct Run {
    op: FileOp,
    inputs: Vec<Tree>,
    states: Vec<State>,
    stop: Arc<AtomicBool>,
    /// Whether what a failed action leaves is wanted.
    keep: bool,
}

/// Where a run ended.
struct Failure {
    action: usize,
    error: StepError,
    /// What each action up to then made; for the failed one, what it left.
    mounts: Vec<Option<Tree>>,
}

impl Run {
    fn all(mut self) -> Result<Vec<Option<Tree>>, Box<Failure>> {
        let actions = self.op.file.actions.clone();
        for (k, action) in actions.iter().enumerate() {
            let state = self.one(k, action).map_err(|e| Box::new(self.failure(k, e)))?;
            self.states.push(state);
        }
        let count = actions.iter().filter_map(|a| usize::try_from(a.output).ok()).max().map_or(0, |max| max + 1);
        let mut outputs = vec![None; count];
        for (k, action) in actions.iter().enumerate() {
            if let Ok(output) = usize::try_from(action.output) {
                outputs[output] = Some(self.tree(Place::Action(k)).map_err(|e| Box::new(self.failure(k, e)))?);
            }
        }
        Ok(outputs)
    }

    fn failure(&mut self, action: usize, error: StepError) -> Failure {
        let mut mounts = Vec::new();
        if self.keep {
            mounts = (0..self.op.file.actions.len()).map(|k| self.tree(Place::Action(k)).ok()).collect();
            if mounts.get(action).is_some_and(Option::is_none) {
                let target = self.op.place(self.op.file.actions[action].input);
                mounts[action] = self.tree(target).ok();
            }
        }
        Failure { action, error, mounts }
    }

    /// How often what action `j` made is looked at by anyone but action `k` as its target.
    fn other_uses(&self, j: usize, k: usize) -> bool {
        let place = Place::Action(j);
        self.op.file.actions.iter().enumerate().any(|(i, a)| {
            let named = owner(a).is_some_and(|o| named_inputs(o).any(|i| self.op.place(i) == place));
            (i == j && a.output >= 0)
                || (i != k && self.op.place(a.input) == place)
                || self.op.place(a.secondary_input) == place && matches!(a.action, Some(Kind::Copy(_)))
                || (i != k && named)
        })
    }

    fn target(&mut self, k: usize, place: Place) -> Result<(Box<WriteTree>, Box<Executor>), StepError> {
        if let Place::Action(j) = place
            && !self.other_uses(j, k)
            && let Some(state) = self.states.get_mut(j)
            && matches!(state, State::Writing(..))
            && let State::Writing(write, executor) = std::mem::replace(state, State::Taken)
        {
            return Ok((write, executor));
        }
        let base = self.tree(place)?;
        let write = self.op.worker.write(&base)?;
        let links = if write.active().upper().is_some() { Links::Allowed } else { Links::Refused };
        let executor = Executor::open(write.mount(), links).map_err(StepError::while_doing(""))?;
        Ok((Box::new(write), Box::new(executor)))
    }

    /// The tree at a place, committed if it is still being written.
    fn tree(&mut self, place: Place) -> Result<Tree, StepError> {
        match place {
            Place::Empty => Ok(Tree::default()),
            Place::Input(i) => Ok(self.inputs[i].clone()),
            Place::Action(j) => {
                let state = self.states.get_mut(j).ok_or_else(|| {
                    StepError::refused(format!("file action refers to action {j}, which is not before it"))
                })?;
                match std::mem::replace(state, State::Taken) {
                    State::Writing(write, executor) => {
                        drop(executor);
                        let tree = write.commit(&self.op.name)?;
                        *state = State::Done(tree.clone());
                        Ok(tree)
                    }
                    State::Done(tree) => {
                        *state = State::Done(tree.clone());
                        Ok(tree)
                    }
                    State::Taken => Err(StepError::refused(format!("the result of file action {j} is used twice"))),
                }
            }
        }
    }

    fn one(&mut self, k: usize, action: &pb::FileAction) -> Result<State, StepError> {
        let kind = action.action.as_ref().ok_or_else(|| StepError::refused("a file action has no kind"))?;
        if let Some(nowhere) = owner(action).into_iter().flat_map(named_inputs).find(|input| *input < 0) {
            return Err(StepError::refused(format!(
                "invalid user index: {nowhere} (an empty file system, as below --link, has no names of users: give numbers)"
            )));
        }
        let target_place = self.op.place(action.input);
        // Sources first: committing one must not happen while the target is open on top of it.
        let source = match kind {
            Kind::Copy(_) => Some(self.tree(self.op.place(action.secondary_input))?),
            _ => None,
        };
        let lookup = |input: Option<i64>| input.map(|i| self.op.place(i));
        let (users, groups) = match owner(action) {
            Some(o) => (lookup(named(o.user.as_ref())), lookup(named(o.group.as_ref()))),
            None => (None, None),
        };
        let named_tree = |run: &mut Self, place: Option<Place>| match place {
            Some(place) if place != target_place => run.tree(place).map(Some),
            _ => Ok(None),
        };
        let user_tree = named_tree(self, users)?;
        let group_tree = named_tree(self, groups)?;
        let (write, mut executor) = self.target(k, target_place)?;
        let worker = self.op.worker.clone();
        let open = |tree: &Option<Tree>| tree.as_ref().map(|t| worker.read(t)).transpose();
        let (source, user_read, group_read) = (open(&source)?, open(&user_tree)?, open(&group_tree)?);
        let own = write.mount().clone();
        let pick = |place: Option<Place>, read: &Option<crate::worker::ReadTree>| -> Option<Mount> {
            let place = place?;
            if place == target_place { Some(own.clone()) } else { read.as_ref().map(|r| r.mount().clone()) }
        };
        let (users, groups) = (pick(users, &user_read), pick(groups, &group_read));
        let inputs = Inputs {
            source: source.as_ref().map(crate::worker::ReadTree::mount),
            users: users.as_ref(),
            groups: groups.as_ref(),
        };
        executor.set_cancel_flag(self.stop.clone());
        let applied = executor.apply(&translate(kind), inputs);
        if let Err(error) = applied {
            if self.keep && k == self.states.len() {
                self.states.push(State::Writing(write, executor));
            }
            return Err(StepErrorKind::Other { context: String::new(), source: Box::new(error) }.into());
        }
        Ok(State::Writing(write, executor))
    }
}

fn owner(action: &pb::FileAction) -> Option<&pb::ChownOpt> {
    match action.action.as_ref()? {
        Kind::Copy(a) => a.owner.as_ref(),
        Kind::Mkfile(a) => a.owner.as_ref(),
        Kind::Mkdir(a) => a.owner.as_ref(),
        Kind::Symlink(a) => a.owner.as_ref(),
        Kind::Rm(_) => None,
    }
}

fn named(user: Option<&pb::UserOpt>) -> Option<i64> {
    match user?.user.as_ref()? {
        pb::user_opt::User::ByName(n) => Some(n.input),
        pb::user_opt::User::ById(_) => None,
    }
}

fn named_inputs(owner: &pb::ChownOpt) -> impl Iterator<Item = i64> + '_ {
    [named(owner.user.as_ref()), named(owner.group.as_ref())].into_iter().flatten()
}

fn principal(user: Option<&pb::UserOpt>) -> Option<fileop::Principal> {
    Some(match user?.user.as_ref()? {
        pb::user_opt::User::ByName(n) => fileop::Principal::Name(n.name.clone()),
        pb::user_opt::User::ById(id) => fileop::Principal::Id(*id),
    })
}

fn own(owner: Option<&pb::ChownOpt>) -> Option<fileop::Owner> {
    owner.map(|o| fileop::Owner { user: principal(o.user.as_ref()), group: principal(o.group.as_ref()) })
}

/// Protocol: -1 leaves the time as it is.
fn time(nanoseconds: i64) -> Option<fileop::Time> {
    (nanoseconds != -1).then_some(fileop::Time(nanoseconds))
}

/// Protocol: -1 leaves permissions as they are.
fn mode(mode: i32) -> Option<u32> {
    u32::try_from(mode).ok()
}

fn translate(action: &Kind) -> fileop::Action {
    match action {
        Kind::Copy(a) => fileop::Action::Copy(Box::new(fileop::Copy {
            src: a.src.clone(),
            dest: a.dest.clone(),
            owner: own(a.owner.as_ref()),
            mode: mode(a.mode),
            mode_str: a.mode_str.clone(),
            follow_symlink: a.follow_symlink,
            dir_copy_contents: a.dir_copy_contents,
            attempt_unpack: a.attempt_unpack_docker_compatibility,
            create_dest_path: a.create_dest_path,
            allow_wildcard: a.allow_wildcard,
            allow_empty_wildcard: a.allow_empty_wildcard,
            timestamp: time(a.timestamp),
            include_patterns: a.include_patterns.clone(),
            exclude_patterns: a.exclude_patterns.clone(),
            required_paths: a.required_paths.clone(),
            always_replace: a.always_replace_existing_dest_paths,
        })),
        Kind::Mkfile(a) => fileop::Action::Mkfile(fileop::Mkfile {
            path: a.path.clone(),
            mode: mode(a.mode).unwrap_or(0o644),
            data: a.data.clone(),
            owner: own(a.owner.as_ref()),
            timestamp: time(a.timestamp),
        }),
        Kind::Mkdir(a) => fileop::Action::Mkdir(fileop::Mkdir {
            path: a.path.clone(),
            mode: mode(a.mode).unwrap_or(0o755),
            make_parents: a.make_parents,
            owner: own(a.owner.as_ref()),
            timestamp: time(a.timestamp),
        }),
        Kind::Rm(a) => fileop::Action::Rm(fileop::Rm {
            path: a.path.clone(),
            allow_not_found: a.allow_not_found,
            allow_wildcard: a.allow_wildcard,
        }),
        Kind::Symlink(a) => fileop::Action::Symlink(fileop::Symlink {
            oldpath: a.oldpath.clone(),
            newpath: a.newpath.clone(),
            owner: own(a.owner.as_ref()),
            timestamp: time(a.timestamp),
        }),
    }
}
