//! Work that several builds may want at the same time: begun once, shared, stopped when nobody is left.

use crate::{Domain, Event, LogAudience, Observer, OpContext, SolveError, VertexUpdate, unkept::Loaded};
use cooper_oci::Digest;
use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc, time::SystemTime};
use tokio_util::sync::CancellationToken;

/// Most bytes of log that are kept to be shown to builds that join late.
const REPLAY_BYTES: usize = 2 << 20;

/// One build's interest in a piece of work, under the vertex digest that this build knows it by.
pub(crate) struct Member<D: Domain> {
    pub job: Arc<D::Job>,
    pub observer: Arc<dyn Observer>,
    pub vertex: Digest,
    pub name: String,
}

/// Everyone who wants a piece of work, and what they have been told.
pub(crate) struct Audience<D: Domain> {
    state: Mutex<AudienceState<D>>,
}

struct AudienceState<D: Domain> {
    members: Vec<(u64, Member<D>)>,
    next: u64,
    started: Option<SystemTime>,
    replay: Vec<Event>,
    replay_bytes: usize,
}

impl<D: Domain> Audience<D> {
    pub fn new() -> Self {
        let state = AudienceState { members: Vec::new(), next: 0, started: None, replay: Vec::new(), replay_bytes: 0 };
        Self { state: Mutex::new(state) }
    }

    /// Tells a newcomer what has happened so far, then everything that follows.
    pub fn join(&self, member: Member<D>) -> u64 {
        let mut state = self.state.lock();
        if state.started.is_some() {
            member.observer.vertex(running(&member, state.started));
        }
        for event in &state.replay {
            member.observer.event(&member.vertex, event.clone());
        }
        let id = state.next;
        state.next += 1;
        state.members.push((id, member));
        id
    }

    /// Returns whether nobody is left.
    fn leave(&self, id: u64) -> bool {
        let mut state = self.state.lock();
        state.members.retain(|(i, _)| *i != id);
        state.members.is_empty()
    }

    pub fn jobs(&self) -> Vec<Arc<D::Job>> {
        self.state.lock().members.iter().map(|(_, m)| m.job.clone()).collect()
    }

    pub fn emit(&self, event: Event) {
        let mut state = self.state.lock();
        for (_, member) in &state.members {
            member.observer.event(&member.vertex, event.clone());
        }
        let size = match &event {
            // Whoever joins late sees what watchers saw.
            Event::Log { audience: LogAudience::Record, .. } => return,
            Event::Log { data, .. } => data.len(),
            Event::Status(new) => {
                state.replay.retain(|e| !matches!(e, Event::Status(old) if old.id == new.id));
                0
            }
            Event::Warning(_) => 0,
        };
        if state.replay_bytes + size <= REPLAY_BYTES {
            state.replay_bytes += size;
            state.replay.push(event);
        }
    }

    /// Tells everyone that work has begun. Returns when.
    pub fn start(&self) -> SystemTime {
        let mut state = self.state.lock();
        let now = *state.started.get_or_insert_with(SystemTime::now);
        for (_, member) in &state.members {
            member.observer.vertex(running(member, Some(now)));
        }
        now
    }

    pub fn started(&self) -> Option<SystemTime> {
        self.state.lock().started
    }
}

fn running<D: Domain>(member: &Member<D>, started: Option<SystemTime>) -> VertexUpdate {
    VertexUpdate { vertex: member.vertex.clone(), started, completed: None, cached: false, error: None }
}

type Outcome<D, T> = Shared<BoxFuture<'static, Result<T, SolveError<D>>>>;

struct Flight<D: Domain, T> {
    audience: Arc<Audience<D>>,
    cancel: CancellationToken,
    outcome: Outcome<D, T>,
}

/// The pieces of work under way, by what identifies them.
pub(crate) struct Flights<D: Domain, T> {
    map: Mutex<HashMap<Digest, Arc<Flight<D, T>>>>,
}

impl<D: Domain, T: Clone + Send + Sync + 'static> Flights<D, T> {
    pub fn new() -> Self {
        Self { map: Mutex::new(HashMap::new()) }
    }

    /// Joins the work under `key`, which `begin` starts when there is none.
    pub fn join<F, Fut>(
        self: &Arc<Self>,
        key: &Digest,
        member: Member<D>,
        loaded: Arc<Loaded<D::Job>>,
        begin: F,
    ) -> Joined<D, T>
    where
        F: FnOnce(OpContext<D>) -> Fut,
        Fut: Future<Output = Result<T, SolveError<D>>> + Send + 'static,
    {
        let (vertex, name) = (member.vertex.clone(), member.name.clone());
        let mut map = self.map.lock();
        if let Some(flight) = map.get(key).cloned() {
            let id = flight.audience.join(member);
            return Joined { flights: self.clone(), key: key.clone(), flight, id, vertex, name };
        }
        let audience = Arc::new(Audience::new());
        let cancel = CancellationToken::new();
        let id = audience.join(member);
        let cx = OpContext { vertex: vertex.clone(), cancelled: cancel.clone(), audience: audience.clone(), loaded };
        let work = begin(cx);
        let (token, flights, own) = (cancel.clone(), Arc::downgrade(self), (key.clone(), audience.clone()));
        let task = tokio::spawn(async move {
            let outcome = token.run_until_cancelled(work).await.unwrap_or(Err(SolveError::Cancelled));
            if let Some(flights) = flights.upgrade() {
                flights.forget(&own.0, &own.1);
            }
            outcome
        });
        let outcome = async move { task.await.unwrap_or_else(|e| Err(SolveError::Internal(e.to_string().into()))) };
        let flight = Arc::new(Flight { audience, cancel, outcome: outcome.boxed().shared() });
        map.insert(key.clone(), flight.clone());
        Joined { flights: self.clone(), key: key.clone(), flight, id, vertex, name }
    }

    fn forget(&self, key: &Digest, audience: &Arc<Audience<D>>) {
        let mut map = self.map.lock();
        if map.get(key).is_some_and(|f| Arc::ptr_eq(&f.audience, audience)) {
            map.remove(key);
        }
    }
}

/// A place among those who wait for a piece of work; dropping it gives the place up.
pub(crate) struct Joined<D: Domain, T: Clone + Send + Sync + 'static> {
    flights: Arc<Flights<D, T>>,
    key: Digest,
    flight: Arc<Flight<D, T>>,
    id: u64,
    vertex: Digest,
    name: String,
}

impl<D: Domain, T: Clone + Send + Sync + 'static> Joined<D, T> {
    /// Waits for the outcome; a failure names the vertex under which this build knows the work.
    pub async fn wait(&self) -> Result<T, SolveError<D>> {
        self.flight.outcome.clone().await.map_err(|e| match e {
            SolveError::Op { error, .. } => {
                SolveError::Op { vertex: self.vertex.clone(), name: self.name.clone(), error }
            }
            e => e,
        })
    }

    pub fn started(&self) -> Option<SystemTime> {
        self.flight.audience.started()
    }
}

impl<D: Domain, T: Clone + Send + Sync + 'static> Drop for Joined<D, T> {
    fn drop(&mut self) {
        // The map's lock makes leaving and joining exclude each other: nobody joins work that is being cancelled.
        let mut map = self.flights.map.lock();
        if self.flight.audience.leave(self.id) {
            if map.get(&self.key).is_some_and(|f| Arc::ptr_eq(f, &self.flight)) {
                map.remove(&self.key);
            }
            self.flight.cancel.cancel();
        }
    }
}
