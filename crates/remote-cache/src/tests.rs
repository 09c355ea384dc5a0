//! The format as a specification.

use crate::documents::{Shape, documents};
use crate::{Cache, Layer, Link, Record, RecordKind, StepResult, parse, parse_described, parse_inline};
use cooper_oci::{Descriptor, Digest, ImageManifest, annotations};
use proptest::prelude::*;

fn layer(text: &str, parent: Option<usize>) -> Layer {
    let descriptor = Descriptor::of("application/vnd.oci.image.layer.v1.tar+gzip", text.as_bytes())
        .with_annotation(annotations::UNCOMPRESSED, Digest::of(format!("{text} unpacked")).to_string());
    Layer { descriptor, parent, created: None }
}

fn record(text: &str, kind: RecordKind, inputs: Vec<Vec<Link>>, results: &[&[usize]]) -> Record {
    let result = |layers: &&[usize]| StepResult { created: None, expires: None, layers: layers.to_vec() };
    let results = results.iter().map(result).collect();
    Record { digest: Digest::of(text), kind, output: 0, name: String::new(), inputs, results }
}

fn link(record: usize) -> Link {
    Link { record, selector: String::new() }
}

/// A base, a step on it, a copy of what the step made that is known by content, too.
fn example() -> Cache {
    Cache {
        layers: vec![layer("copy", None), layer("base", None), layer("step", Some(1))],
        records: vec![
            record("copy", RecordKind::Step, vec![vec![link(2), link(3)]], &[&[0]]),
            record("base", RecordKind::Step, vec![], &[]),
            record("step", RecordKind::Step, vec![vec![link(1)]], &[&[1, 2]]),
            record("content", RecordKind::Content, vec![], &[]),
            record("unused", RecordKind::Content, vec![], &[]),
        ],
        attachments: vec![Descriptor::of(crate::attachments::FACTS, b"facts")],
    }
}

#[test]
fn one_way_to_write_it() {
    let cache = example().normalized();
    assert_eq!(cache.records.len(), 4, "what no result needs is left out");
    let mut shuffled = example();
    shuffled.records.swap(0, 2);
    for record in &mut shuffled.records {
        for link in record.inputs.iter_mut().flatten() {
            link.record = [2, 1, 0, 3, 4][link.record];
        }
    }
    assert_eq!(shuffled.normalized().marshal(false), cache.marshal(false));
    assert_eq!(cache.normalized(), cache);
    let descriptors: Vec<_> = cache.layers.iter().map(|l| l.descriptor.clone()).collect();
    assert_eq!(parse(&cache.marshal(false), &descriptors).unwrap(), cache);
    let described = parse_described(&cache.marshal(true)).unwrap();
    assert_eq!(described.marshal(true), cache.marshal(true));
}

#[test]
fn what_is_embedded_is_no_blob() {
    let blobs = |cache: &Cache| {
        let (_, manifest) = documents(cache, Shape { image_manifest: true, oci: true }, "here").unwrap();
        let manifest: ImageManifest = serde_json::from_slice(&manifest.bytes).unwrap();
        manifest.layers.iter().filter(|layer| layer.media_type == crate::attachments::FACTS).count()
    };
    let mut cache = example().normalized();
    assert_eq!(blobs(&cache), 1);
    cache.attachments[0].data = Some("ZmFjdHM=".into());
    assert_eq!(blobs(&cache), 0);
    assert_eq!(
        parse_described(&cache.marshal(true)).unwrap().attachments,
        cache.attachments,
        "it travels all the same"
    );
}

/// A reader that does not know of attachments finds every layer by the config, whose digests the manifest describes; it
/// asks for nothing that the config does not name.
#[test]
fn attachments_are_named_and_not_asked_for() {
    let cache = example().normalized();
    let config: serde_json::Value = serde_json::from_slice(&cache.marshal(false)).unwrap();
    let wanted: Vec<_> = config["layers"].as_array().unwrap().iter().map(|layer| layer["blob"].clone()).collect();
    for image_manifest in [true, false] {
        let (_, manifest) = documents(&cache, Shape { image_manifest, oci: true }, "here").unwrap();
        let manifest: serde_json::Value = serde_json::from_slice(&manifest.bytes).unwrap();
        let named = manifest[if image_manifest { "layers" } else { "manifests" }].as_array().unwrap();
        let described = named.iter().map(|desc| desc["digest"].clone());
        let described: Vec<_> = described.filter(|digest| wanted.contains(digest)).collect();
        assert_eq!(described, wanted);
        let facts = named.iter().filter(|desc| desc["mediaType"] == crate::attachments::FACTS).count();
        assert_eq!(facts, 1, "no collector takes them for garbage");
    }
    assert!(!wanted.contains(&cache.attachments[0].digest.to_string().into()));
}

#[test]
fn what_makes_an_archive_seekable_goes_along_and_where_it_came_from_does_not() {
    let mut cache = example().normalized();
    let contents = Digest::of("contents").to_string();
    for (key, value) in [
        (annotations::ESTARGZ_CONTENTS, contents.as_str()),
        (annotations::ESTARGZ_SIZE, "5"),
        ("containerd.io/distribution.source.example.com", "app"),
    ] {
        cache.layers[0].descriptor.annotations.insert(key.to_owned(), value.to_owned());
    }
    let (_, manifest) = documents(&cache, Shape { image_manifest: true, oci: true }, "a cache").unwrap();
    let manifest: ImageManifest = serde_json::from_slice(&manifest.bytes).unwrap();
    let notes: Vec<_> = manifest.layers[0].annotations.keys().map(String::as_str).collect();
    assert_eq!(notes, [annotations::ESTARGZ_CONTENTS, annotations::UNCOMPRESSED, annotations::ESTARGZ_SIZE]);
}

#[test]
fn as_buildkit_writes_it() {
    let (a, b) = (Digest::of("a"), Digest::of("b"));
    let text = format!(
        r#"{{"layers":[{{"blob":"{a}","parent":-1}},{{"blob":"{b}"}}],
            "records":[{{"layers":[{{"layer":1,"createdAt":"2024-01-01T00:00:00Z"}}],"digest":"{a}","inputs":[[{{"link":1}}],null]}},
                       {{"chains":[{{"layers":[1,0]}}],"digest":"{b}"}}]}}"#
    );
    let descriptors = [Descriptor::new("x", a, 1), Descriptor::new("x", b, 1)];
    let cache = parse(text.as_bytes(), &descriptors).unwrap();
    // A parent that is left out is layer 0, not the bottom.
    assert_eq!(cache.layers[1].parent, Some(0));
    assert_eq!(cache.records[0].results[0].layers, [0, 1]);
    assert_eq!(cache.records[1].results[0].layers, [1, 0]);
}

#[test]
fn the_times_of_layers_are_those_of_the_steps_that_made_them() {
    let (a, base) = (Digest::of("a"), Digest::of("base"));
    let result = |layer: usize, second: u8| {
        format!(r#"{{"layers":[{{"layer":{layer},"createdAt":"2024-01-01T00:00:0{second}Z"}}],"digest":"{a}"}}"#)
    };
    // The same archive is the layer of two steps, at two places.
    let text = format!(
        r#"{{"layers":[{{"blob":"{base}","parent":-1}},{{"blob":"{a}","parent":-1}},{{"blob":"{a}"}}],"records":[{},{}]}}"#,
        result(1, 1),
        result(2, 2)
    );
    let noted = Descriptor::new("x", a, 1).with_annotation(annotations::CREATED_AT, "2024-01-01T00:00:09Z");
    let cache = parse(text.as_bytes(), &[noted, Descriptor::new("x", base, 1)]).unwrap();
    let seconds: Vec<_> = cache.layers.iter().map(|l| l.created.map(|c| c.as_second() % 10)).collect();
    assert_eq!(seconds, [None, Some(1), Some(2)]);
}

#[test]
fn refuses_what_is_no_cache() {
    let d = Digest::of("a");
    let check = |text: String| parse(text.as_bytes(), &[Descriptor::new("x", d.clone(), 1)]).unwrap_err().to_string();
    let record = |body: &str| check(format!(r#"{{"records":[{{"digest":"{d}",{body}}}]}}"#));
    let layers = |body: &str| check(format!(r#"{{"layers":[{{"blob":"{d}",{body}}}]}}"#));
    for (error, expected) in [
        (layers(r#""parent":0"#), "layer 0 of the cache document depends on itself"),
        (layers(r#""parent":7"#), "layer 0 of the cache document points to 7, which is not there"),
        (layers(r#""parent":-2"#), "layer 0 of the cache document points to -2, which is not there"),
        (record(r#""inputs":[[{"link":0}]]"#), "record 0 of the cache document depends on itself"),
        (record(r#""inputs":[[{"link":1}]]"#), "record 0 of the cache document points to 1, which is not there"),
        (record(r#""layers":[{"layer":0}]"#), "record 0 of the cache document points to 0, which is not there"),
        (record(r#""output":99999999"#), "record 0 of the cache document points to 99999999, which is not there"),
    ] {
        assert_eq!(error, expected);
    }
    assert!(check("{\"records\":".to_owned()).starts_with("the cache document is not valid JSON"));
    let other = Digest::of("b");
    let unknown = check(format!(r#"{{"layers":[{{"blob":"{other}","parent":-1}}]}}"#));
    assert_eq!(unknown, format!("the manifest of the cache does not describe layer {other}"));
}

#[test]
fn inline_layers_are_those_of_the_image() {
    let layers = vec![layer("a", None).descriptor, layer("b", None).descriptor];
    let d = Digest::of("x");
    let text = format!(r#"[{{"digest":"{d}","layers":[{{"layer":1}}],"chains":[{{"layers":[1]}}]}}]"#);
    let cache = parse_inline(text.as_bytes(), layers).unwrap();
    assert_eq!(cache.layers[1].parent, Some(0));
    let stacks: Vec<_> = cache.records[0].results.iter().map(|r| r.layers.clone()).collect();
    assert_eq!(stacks, [vec![0, 1], vec![1]]);
    let again = parse_inline(&cache.marshal_inline(), cache.layers.iter().map(|l| l.descriptor.clone()).collect());
    assert_eq!(again.unwrap(), cache);
}

#[test]
fn merging_keeps_both_and_is_no_growth_when_there_is_nothing_new() {
    let (one, two) = (example().normalized(), {
        let mut other = example();
        other.records.push(record("more", RecordKind::Step, vec![vec![link(2)]], &[&[1]]));
        other.normalized()
    });
    let merged = one.merged(&two);
    assert_eq!(merged, two.merged(&one));
    assert!(merged.includes(&one) && merged.includes(&two));
    assert!(two.includes(&one) && !one.includes(&two));
    assert_eq!(one.merged(&one), one);
}

proptest! {
    #[test]
    fn any_bytes_are_a_cache_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes, &[]);
        let _ = parse_described(&bytes);
        let _ = parse_inline(&bytes, Vec::new());
    }

    #[test]
    fn any_numbers_are_a_cache_or_an_error(
        parents in proptest::collection::vec(-1i64..6, 1..6),
        links in proptest::collection::vec(0usize..6, 1..6),
        tops in proptest::collection::vec(0i64..6, 1..6),
    ) {
        let blob = Digest::of("a");
        let layers: Vec<_> = parents.iter().map(|p| format!(r#"{{"blob":"{blob}","parent":{p}}}"#)).collect();
        let records: Vec<_> = links.iter().zip(&tops)
            .map(|(l, t)| format!(r#"{{"digest":"{blob}","inputs":[[{{"link":{l}}}]],"layers":[{{"layer":{t}}}]}}"#))
            .collect();
        let text = format!(r#"{{"layers":[{}],"records":[{}]}}"#, layers.join(","), records.join(","));
        if let Ok(cache) = parse(text.as_bytes(), &[Descriptor::new("x", blob, 1)]) {
            let normal = cache.normalized();
            prop_assert_eq!(normal.normalized(), normal);
        }
    }
}
