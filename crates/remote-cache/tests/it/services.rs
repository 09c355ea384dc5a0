//! What every service must do, and what single ones do beside.

use crate::place::{Place, Service, cache, export, fetch, layers};
use cooper_remote_cache::{EntryKind, Error, Sent};

const MIB: usize = 1 << 20;

/// The life of a cache at a place. The larger layers go in parts.
async fn check(place: Place) {
    let layers = layers(&[1000, 17 * MIB, 0, 33 * MIB + 5]);
    let first = cache("first", &layers.descriptors);
    let there = place.open("life");
    assert!(matches!(there.load().await, Ok(found) if found.is_empty()), "nothing is there yet");
    assert!(there.current().await.unwrap().is_none());

    let sent = export(&*there, &layers, &first).await.unwrap();
    assert_eq!(sent, [Sent::Uploaded; 4]);
    place.proxy.plan(cooper_testkit::When::Never);
    let sent = export(&*place.open("life"), &layers, &first).await.unwrap();
    assert_eq!(sent, [Sent::Present; 4], "unchanged, nothing is sent");

    let loaded = place.open("life").load().await.unwrap();
    assert_eq!(loaded.len(), 1);
    assert_eq!(loaded[0].cache, first);
    for (index, desc) in layers.descriptors.iter().enumerate() {
        let bytes = fetch(&*loaded[0].blobs, desc, 0).await.unwrap();
        assert!(desc.digest.matches(&bytes), "layer {index}");
        let middle = desc.size / 2;
        assert_eq!(fetch(&*loaded[0].blobs, desc, middle).await.unwrap(), bytes[middle as usize..], "layer {index}");
    }

    // Two writers that have read the same version: one wins, the other is told, and merges.
    let (one, two) = (place.open("life"), place.open("life"));
    let version = one.current().await.unwrap().unwrap().version;
    let second = cache("second", &layers.descriptors[..1]);
    one.publish(&first.merged(&second), version.as_ref()).await.unwrap();
    let third = cache("third", &layers.descriptors[..2]);
    let lost = two.publish(&first.merged(&third), version.as_ref()).await;
    assert!(matches!(lost, Err(Error::Conflict { .. })), "{lost:?}");
    assert!(matches!(two.publish(&third, None).await, Err(Error::Conflict { .. })), "nothing was there before");
    let now = two.current().await.unwrap().unwrap();
    two.publish(&now.cache.merged(&third), now.version.as_ref()).await.unwrap();
    let all = place.open("life").load().await.unwrap();
    assert_eq!(all[0].cache, first.merged(&second).merged(&third));
}

#[tokio::test]
async fn a_cache_lives_in_s3() {
    check(Place::s3()).await;
}

#[tokio::test]
async fn a_cache_lives_in_azure() {
    check(Place::azure()).await;
}

#[tokio::test]
async fn a_cache_lives_at_github_by_version_1() {
    check(Place::gha(1)).await;
}

#[tokio::test]
async fn a_cache_lives_at_github_by_version_2() {
    check(Place::gha(2)).await;
}

/// Names, keys, lists, deletion, refreshment: what buckets can do.
async fn check_bucket(place: Place, blobs: &str, manifests: &str) {
    let layers = layers(&[10, 20]);
    let both = cache("both", &layers.descriptors);
    let there = place.open_with("b", &[("name", "one;two"), ("touch_refresh", "0")]);
    export(&*there, &layers, &both).await.unwrap();
    assert_eq!(there.load().await.unwrap().len(), 2);
    assert_eq!(place.open_with("b", &[("name", "two;none")]).load().await.unwrap()[0].cache, both);

    let mut keys: Vec<(String, EntryKind, u64)> =
        there.list().await.unwrap().into_iter().map(|e| (e.name, e.kind, e.size)).collect();
    keys.sort_by(|a, b| a.0.cmp(&b.0));
    let blob = |index: usize| {
        let desc = &layers.descriptors[index];
        (format!("{blobs}{}", desc.digest), EntryKind::Blob(desc.digest.clone()), desc.size)
    };
    let mut expected = vec![blob(0), blob(1)];
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(keys[..2], expected);
    let documents: Vec<_> = keys[2..].iter().map(|(name, kind, _)| (name.as_str(), kind)).collect();
    let names = [format!("{manifests}one"), format!("{manifests}two")];
    assert_eq!(documents, [(names[0].as_str(), &EntryKind::Document), (names[1].as_str(), &EntryKind::Document)]);

    // A refreshed layer is written again without its bytes.
    let before = there.list().await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    assert_eq!(there.ensure_blob(&layers.descriptors[0], &layers.store).await.unwrap(), Sent::Present);
    let after = there.list().await.unwrap();
    let age = |entries: &[cooper_remote_cache::Entry]| {
        entries.iter().find(|e| e.kind == EntryKind::Blob(layers.descriptors[0].digest.clone())).unwrap().modified
    };
    assert!(age(&after) > age(&before), "{before:?} {after:?}");

    // An object of another size is no layer.
    let mut cut = layers.descriptors[1].clone();
    cut.size -= 1;
    assert_eq!(there.ensure_blob(&cut, &layers.store).await.unwrap(), Sent::Uploaded);
    assert_eq!(there.ensure_blob(&layers.descriptors[1], &layers.store).await.unwrap(), Sent::Uploaded);

    for entry in there.list().await.unwrap() {
        there.delete(&entry).await.unwrap();
        there.delete(&entry).await.unwrap();
    }
    assert_eq!(there.list().await.unwrap(), []);
    assert!(there.load().await.unwrap().is_empty());
}

#[tokio::test]
async fn s3_has_keys_names_and_ages() {
    check_bucket(Place::s3(), "b/blobs/", "b/manifests/").await;
}

#[tokio::test]
async fn azure_has_keys_names_and_ages() {
    check_bucket(Place::azure(), "b/blobs/", "b/manifests/").await;
}

#[tokio::test]
async fn scopes_fall_back_and_urls_end() {
    let place = Place::gha(2);
    let Service::Gha(actions, _) = &place.service else { unreachable!() };
    let layers = layers(&[100]);
    let token = |scopes: &[&str]| cooper_testkit::Actions::token(scopes);
    let on_main = place.open_with("s", &[("token", &token(&["refs/heads/main"]))]);
    let cached = cache("main", &layers.descriptors);
    export(&*on_main, &layers, &cached).await.unwrap();

    let on_topic = place.open("s");
    let loaded = on_topic.load().await.unwrap();
    assert_eq!(loaded.len(), 1);
    assert_eq!(loaded[0].cache, cached);
    fetch(&*loaded[0].blobs, &layers.descriptors[0], 0).await.unwrap();
    actions.end_urls();
    assert!(fetch(&*loaded[0].blobs, &layers.descriptors[0], 0).await.is_ok(), "a new URL is asked for");

    // What is read from main is written to topic.
    assert!(on_topic.current().await.unwrap().is_none());
    assert_eq!(export(&*on_topic, &layers, &cached).await.unwrap(), [Sent::Present]);
    assert_eq!(place.open("s").load().await.unwrap().len(), 2);
}

#[tokio::test]
async fn entries_are_listed_with_a_token_for_that() {
    let place = Place::gha(2);
    let layers = layers(&[100, 200, 300]);
    let cached = cache("x", &layers.descriptors);
    export(&*place.open("s"), &layers, &cached).await.unwrap();
    place.proxy.plan(cooper_testkit::When::Never);
    let url = format!("http://{}", place.proxy.host());
    let more = [
        ("repository", cooper_testkit::actions::REPOSITORY),
        ("ghtoken", cooper_testkit::actions::LISTING_TOKEN),
        ("api_url", &url),
    ];
    assert_eq!(export(&*place.open_with("s", &more), &layers, &cached).await.unwrap(), [Sent::Present; 3]);
    let listed = place.proxy.seen().iter().filter(|r| r.contains("/actions/caches")).count();
    let asked = place.proxy.seen().iter().filter(|r| r.contains("GetCacheEntryDownloadURL")).count();
    assert_eq!((listed, asked), (2, 1), "one list per scope, one look for the document");
}

#[tokio::test]
async fn abandoned_reservations_are_passed_over() {
    let place = Place::gha(1);
    let Service::Gha(actions, _) = &place.service else { unreachable!() };
    let layers = layers(&[100]);
    let cached = cache("x", &layers.descriptors);
    export(&*place.open("s"), &layers, &cached).await.unwrap();
    let index = actions.keys().into_iter().find(|key| key.starts_with("index-")).unwrap();
    let next = format!("{}2", index.strip_suffix('1').unwrap());
    actions.abandon("refs/heads/topic", &next);
    let more = cached.merged(&cache("y", &layers.descriptors));
    let there = place.open("s");
    let over = there.current().await.unwrap().unwrap().version;
    there.publish(&more, over.as_ref()).await.unwrap();
    assert_eq!(place.open("s").load().await.unwrap()[0].cache, more);
}

#[tokio::test]
async fn what_is_no_cache_is_refused_and_replaced() {
    for place in [Place::s3(), Place::azure()] {
        let layers = layers(&[10]);
        let cached = cache("x", &layers.descriptors);
        let there = place.open("j");
        export(&*there, &layers, &cached).await.unwrap();
        // A layer under the name of a document.
        let junk =
            place.open_with("j", &[("manifests_prefix", "blobs/"), ("name", layers.descriptors[0].digest.as_str())]);
        assert!(matches!(junk.load().await, Err(Error::Format { .. })));
        export(&*junk, &crate::place::layers(&[]), &cached).await.unwrap();
        assert_eq!(junk.load().await.unwrap()[0].cache, cached);
    }
}
