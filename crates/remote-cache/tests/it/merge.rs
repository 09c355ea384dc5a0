//! Many writers of one document, and collection of what has expired.

use crate::place::{Place, cache, fetch, layers};
use cooper_oci::Descriptor;
use cooper_registry::{Anonymous, HostsConfig, Options, Registry};
use cooper_remote_cache::{Backend, Cache, Collect, Collected, collect, write};
use jiff::{SignedDuration, Timestamp};
use std::{sync::Arc, time::Duration};

const WRITERS: usize = 20;

/// Twenty writers that saw the same before: the entries of each are there afterwards.
async fn twenty(place: Place) {
    let place = Arc::new(place);
    let layers = layers(&[100]);
    let seen = place.open("merge").current().await.unwrap().and_then(|found| found.version);
    place.open("merge").ensure_blob(&layers.descriptors[0], &layers.store).await.unwrap();
    let one = |number: usize| cache(&format!("writer {number}"), &layers.descriptors);
    let writers = (0..WRITERS).map(|number| {
        let (backend, seen, cache) = (place.open("merge"), seen.clone(), one(number));
        tokio::spawn(async move { write(backend.as_ref(), seen, None, cache).await.map(drop) })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap().unwrap();
    }
    let all = place.open("merge").load().await.unwrap().remove(0).cache;
    for number in 0..WRITERS {
        assert!(all.includes(&one(number)), "the entries of writer {number} are gone");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn twenty_writers_to_a_registry() {
    twenty(Place::registry()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn twenty_writers_to_s3() {
    twenty(Place::s3()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn twenty_writers_to_azure() {
    twenty(Place::azure()).await;
}

/// Tags of the repository that caches of a registry are in.
async fn tags(place: &Place) -> Vec<String> {
    let direct = place.beside();
    let attrs = place.attributes("any").1;
    let reference = attrs["ref"].replace(&place.proxy.host(), &direct.host());
    let client = Registry::new(HostsConfig::default(), Options::default()).client(Arc::new(Anonymous));
    let mut tags = client.tags(&reference.parse().unwrap(), 100).await.unwrap().unwrap();
    tags.sort();
    tags
}

/// One of twenty writers has looked, and its write reaches the registry when all others are done. `alive`: whether it
/// learns of that. Nothing is lost, at the latest with the next export. `refused`: what the registry does not do.
async fn stalled(alive: bool, refused: &[&str]) {
    let place = Arc::new(Place::registry());
    refused.iter().for_each(|part| place.proxy.refuse(part));
    let layers = layers(&[100]);
    let one = |number: usize| cache(&format!("writer {number}"), &layers.descriptors);
    place.open("merge").ensure_blob(&layers.descriptors[0], &layers.store).await.unwrap();
    write(&*place.open("merge"), None, None, one(100)).await.unwrap();
    let left = usize::from(refused.contains(&"DELETE "));
    let others = async |place: &Place| tags(place).await.into_iter().filter(|tag| tag != "merge").count();
    assert_eq!(others(&place).await, left, "an ordinary export leaves no other tag, or an empty one");
    let seen = place.open("merge").current().await.unwrap().and_then(|found| found.version);

    let slow = place.beside();
    refused.iter().for_each(|part| slow.refuse(part));
    slow.hold("PUT /v2/cache/manifests/merge");
    let start = |backend: Arc<dyn Backend>, number: usize| {
        let (seen, cache) = (seen.clone(), one(number));
        tokio::spawn(async move { write(backend.as_ref(), seen, None, cache).await.map(drop) })
    };
    let staller = start(place.open_behind(&slow, "merge"), 0);
    tokio::task::block_in_place(|| slow.wait_held(Duration::from_secs(120)));
    let rest: Vec<_> = (1..WRITERS).map(|number| start(place.open("merge"), number)).collect();
    for writer in rest {
        writer.await.unwrap().unwrap();
    }
    let all = |found: &Cache| (0..WRITERS).filter(|number| !found.includes(&one(*number))).collect::<Vec<_>>();
    assert_eq!(
        all(&place.open("merge").load().await.unwrap()[0].cache),
        [0_usize; 0],
        "others merge what it announced"
    );

    if alive {
        slow.release();
        staller.await.unwrap().unwrap();
    } else {
        staller.abort();
        slow.release();
        for waited in 0.. {
            let left = all(&place.open("merge").load().await.unwrap()[0].cache);
            if left.len() > WRITERS / 2 {
                break;
            }
            assert!(waited < 600, "its write does not come through: {left:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let seen = place.open("merge").current().await.unwrap().and_then(|found| found.version);
        write(&*place.open("merge"), seen, None, one(0)).await.unwrap();
    }
    let found = place.open("merge").load().await.unwrap().remove(0);
    assert_eq!(all(&found.cache), [0_usize; 0]);
    let next = write(&*place.open("merge"), found.version, None, one(200)).await;
    next.unwrap();
    if alive && refused.is_empty() {
        assert_eq!(others(&place).await, 0, "the next export leaves no other tag");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_stalled_writer_to_a_registry_loses_nothing() {
    stalled(true, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_write_that_outlives_its_writer_loses_nothing() {
    stalled(false, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nor_where_nobody_can_delete() {
    stalled(true, &["DELETE "]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nor_where_nobody_can_list_or_delete() {
    stalled(true, &["/tags/list", "DELETE "]).await;
}

fn ending(name: &str, layers: &[Descriptor], at: Option<Timestamp>) -> Cache {
    let mut cache = cache(name, layers);
    for result in cache.records.iter_mut().flat_map(|record| &mut record.results) {
        result.expires = at;
    }
    cache
}

fn options(now: Timestamp) -> Collect {
    Collect { now, grace: Duration::ZERO, dry_run: false }
}

async fn publish(backend: &dyn Backend, cache: &Cache) {
    let over = backend.current().await.unwrap().and_then(|found| found.version);
    backend.publish(cache, over.as_ref()).await.unwrap();
}

/// What has expired goes with what only it needed. `blobs`: whether the place lets layers be removed.
async fn expired(place: Place, blobs: bool) {
    let layers = layers(&[1000, 2000]);
    let there = place.open("gc");
    for desc in &layers.descriptors {
        there.ensure_blob(desc, &layers.store).await.unwrap();
    }
    let now = Timestamp::now();
    let hour = now.checked_add(SignedDuration::from_hours(1)).unwrap();
    let (short, long) =
        (ending("short", &layers.descriptors[..1], Some(hour)), ending("long", &layers.descriptors[1..], None));
    publish(&*there, &short.merged(&long)).await;

    // Clocks may be five minutes apart.
    let later = |minutes: i64| hour.checked_add(SignedDuration::from_mins(minutes)).unwrap();
    let nothing = Collected { documents: 1, ..Collected::default() };
    let done = collect(&*place.open("gc"), options(later(4))).await.unwrap();
    assert_eq!(Collected { note: None, ..done }, nothing);
    let dry = Collect { dry_run: true, ..options(later(6)) };
    let removed = if blobs { (1, 1000) } else { (0, 0) };
    let one = Collected { documents: 1, results: 1, blobs: removed.0, bytes: removed.1, note: None };
    let done = collect(&*place.open("gc"), dry).await.unwrap();
    assert_eq!(Collected { note: None, ..done }, one);
    assert_eq!(place.open("gc").load().await.unwrap()[0].cache, short.merged(&long));
    let done = collect(&*place.open("gc"), options(later(6))).await.unwrap();
    assert_eq!(Collected { note: None, ..done }, one);
    let left = place.open("gc").load().await.unwrap().remove(0);
    assert_eq!(left.cache, long.normalized());
    fetch(&*left.blobs, &layers.descriptors[1], 0).await.unwrap();
    assert_eq!(fetch(&*left.blobs, &layers.descriptors[0], 0).await.is_err(), blobs);
    let done = collect(&*place.open("gc"), options(later(6))).await.unwrap();
    assert_eq!(Collected { note: None, ..done }, nothing);

    // When nothing is left, nobody finds anything.
    publish(&*there, &short).await;
    there.ensure_blob(&layers.descriptors[0], &layers.store).await.unwrap();
    collect(&*place.open("gc"), options(later(6))).await.unwrap();
    let found = place.open("gc").load().await;
    assert!(found.is_err() || found.unwrap().iter().all(|stored| stored.cache.is_empty()));
}

#[tokio::test]
async fn expired_results_leave_a_registry() {
    expired(Place::registry(), false).await;
}

#[tokio::test]
async fn expired_results_leave_s3() {
    expired(Place::s3(), true).await;
}

#[tokio::test]
async fn expired_results_leave_azure() {
    expired(Place::azure(), true).await;
}

#[tokio::test]
async fn github_removes_by_itself() {
    let said = collect(&*Place::gha(2).open("gc"), options(Timestamp::now())).await.unwrap_err().to_string();
    assert!(
        said.ends_with("cannot delete what has expired: GitHub itself removes entries that nobody used for 7 days")
    );
}

/// Other tags that stand for the same manifest keep it.
#[tokio::test]
async fn a_manifest_with_another_tag_stays() {
    let place = Place::registry();
    let layers = layers(&[10]);
    let past = Timestamp::now().checked_sub(SignedDuration::from_hours(1)).unwrap();
    let gone = ending("x", &layers.descriptors, Some(past));
    for name in ["one", "two"] {
        let there = place.open(name);
        there.ensure_blob(&layers.descriptors[0], &layers.store).await.unwrap();
        publish(&*there, &gone).await;
    }
    collect(&*place.open("one"), options(Timestamp::now())).await.unwrap();
    assert_eq!(place.open("two").load().await.unwrap()[0].cache, gone);
}

/// Two exporters make their layers young again, while a collection removes what nobody names.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_exporters_and_a_deleter_at_once() {
    let place = Arc::new(Place::s3());
    let layers = Arc::new(layers(&[1000, 2000, 3000]));
    let open = |place: &Place| place.open_with("busy", &[("touch_refresh", "0")]);
    let first = open(&place);
    for desc in &layers.descriptors {
        first.ensure_blob(desc, &layers.store).await.unwrap();
    }
    // Old enough to go, unless somebody finds them first.
    tokio::time::sleep(Duration::from_secs(16)).await;
    let export = |number: usize| {
        let (place, layers) = (place.clone(), layers.clone());
        let backend = open(&place);
        tokio::spawn(async move {
            for round in 0..5 {
                let desc = &layers.descriptors[number..=number];
                backend.ensure_blob(&desc[0], &layers.store).await.unwrap();
                let cache = cache(&format!("{number} {round}"), desc);
                write(backend.as_ref(), None, None, cache).await.unwrap();
            }
        })
    };
    let exporters = [export(0), export(1)];
    let deleter = {
        let backend = open(&place);
        tokio::spawn(async move {
            for _ in 0..5 {
                let collecting = Collect { now: Timestamp::now(), grace: Duration::from_secs(15), dry_run: false };
                collect(backend.as_ref(), collecting).await.unwrap();
            }
        })
    };
    for task in exporters.into_iter().chain([deleter]) {
        task.await.unwrap();
    }
    let stored = place.open("busy").load().await.unwrap().remove(0);
    for (number, desc) in layers.descriptors.iter().enumerate() {
        let there = fetch(&*stored.blobs, desc, 0).await.is_ok();
        assert_eq!(there, number < 2, "layer {number}");
    }
}
