//! The documents of an image, for what a frontend and the attributes say.

mod support;

use base64::Engine as _;
use cooper_export::assemble::{Assembled, Image, Input, assemble};
use cooper_export::{Names, keys};
use cooper_layer::Compression;
use cooper_oci::MediaType;
use insta::assert_snapshot;
use std::fmt::Write as _;
use support::{Fixture, attested, attrs, one, with_config};

/// All documents, digests shortened.
fn show(image: &Assembled) -> String {
    show_from(image, 0)
}

fn show_from(image: &Assembled, first: usize) -> String {
    let mut out = String::new();
    for document in &image.documents[first..] {
        let text = String::from_utf8(document.bytes.to_vec()).unwrap();
        writeln!(out, "--- {}\n{text}", document.step).unwrap();
    }
    writeln!(out, "--- root\n{}", serde_json::to_string(&image.root).unwrap()).unwrap();
    shorten(&out, image)
}

/// Digests depend on the compressor's version: only who refers to whom is shown.
fn shorten(text: &str, image: &Assembled) -> String {
    let mut out = text.to_owned();
    for (number, layer) in image.layers.iter().enumerate() {
        out = out.replace(layer.digest.as_str(), &format!("LAYER{number}"));
        out = out.replace(&format!("\"size\": {}", layer.size), "\"size\": N");
        if let Some(diff_id) = layer.annotations.get("containerd.io/uncompressed") {
            out = out.replace(diff_id, &format!("DIFF{number}"));
        }
    }
    for (number, document) in image.documents.iter().enumerate() {
        out = out.replace(document.descriptor.digest.as_str(), &format!("DOC{number}"));
    }
    out
}

const CONFIG: &str = r#"{
    "architecture": "arm64", "os": "linux", "created": "2020-01-01T00:00:00Z",
    "config": { "Cmd": ["sh", "-c", "a && b"] , "Labels": null },
    "history": [
        { "created": "2010-01-01T00:00:00Z", "created_by": "base" },
        { "created_by": "ENV a=b", "empty_layer": true },
        { "created_by": "COPY . /", "comment": "buildkit.dockerfile.v0" }
    ],
    "rootfs": { "type": "layers", "diff_ids": [] },
    "unknown": { "b": 1, "a": [ 1.50 ] }
}"#;

#[test]
fn without_a_config_one_is_made() {
    let f = Fixture::new();
    let image = one(f.image("linux/amd64", vec![f.layer("a", "1", Compression::Gzip)]), &[]);
    assert_snapshot!(show(&image), @r#"
    --- exporting config DOC0
    {"architecture":"amd64","config":{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"WorkingDir":"/"},"created":"2001-09-09T01:46:40Z","history":[{"created":"2001-09-09T01:46:40Z","created_by":"add a \u0026\u0026 \u003cdone\u003e","comment":"buildkit.exporter.image.v0"}],"os":"linux","rootfs":{"type":"layers","diff_ids":["DIFF0"]}}
    --- exporting manifest DOC1
    {
      "schemaVersion": 2,
      "mediaType": "application/vnd.oci.image.manifest.v1+json",
      "config": {
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": "DOC0",
        "size": 425
      },
      "layers": [
        {
          "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
          "digest": "LAYER0",
          "size": N,
          "annotations": {
            "kept": "yes"
          }
        }
      ]
    }
    --- root
    {"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"DOC1","size":529,"platform":{"architecture":"amd64","os":"linux"}}
    "#);
}

#[test]
fn a_frontends_config_is_kept_but_for_layers_history_and_time() {
    let f = Fixture::new();
    let layers = vec![f.layer("a", "1", Compression::Uncompressed), f.layer("b", "2", Compression::Zstd)];
    let image = one(with_config(f.image("linux/arm64", layers), CONFIG), &[("annotation.k", "v<")]);
    assert_snapshot!(show(&image), @r#"
    --- exporting config DOC0
    {"architecture":"arm64","config":{"Cmd":["sh","-c","a \u0026\u0026 b"],"Labels":null},"created":"2020-01-01T00:00:00Z","history":[{"created":"2010-01-01T00:00:00Z","created_by":"base"},{"created":"2001-09-09T01:46:40Z","created_by":"ENV a=b","empty_layer":true},{"created":"2001-09-09T01:46:40Z","created_by":"COPY . /","comment":"buildkit.dockerfile.v0"}],"os":"linux","rootfs":{"type":"layers","diff_ids":["LAYER0","DIFF1"]},"unknown":{"b":1,"a":[1.50]}}
    --- exporting manifest DOC1
    {
      "schemaVersion": 2,
      "mediaType": "application/vnd.oci.image.manifest.v1+json",
      "config": {
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": "DOC0",
        "size": 587
      },
      "layers": [
        {
          "mediaType": "application/vnd.oci.image.layer.v1.tar",
          "digest": "LAYER0",
          "size": N,
          "annotations": {
            "kept": "yes"
          }
        },
        {
          "mediaType": "application/vnd.oci.image.layer.v1.tar+zstd",
          "digest": "LAYER1",
          "size": N,
          "annotations": {
            "kept": "yes"
          }
        }
      ],
      "annotations": {
        "k": "v\u003c"
      }
    }
    --- root
    {"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"DOC1","size":810,"platform":{"architecture":"arm64","os":"linux"}}
    "#);
}

#[test]
fn an_epoch_clamps_what_is_newer_than_it_and_not_of_the_base() {
    let f = Fixture::new();
    let base =
        r#"{"architecture":"arm64","os":"linux","history":[{"created":"2010-01-01T00:00:00Z","created_by":"base"}]}"#;
    let image = Image {
        base_config: Some(base.into()),
        epoch: Some(5),
        ..with_config(f.image("linux/arm64", vec![f.layer("a", "1", Compression::Gzip); 2]), CONFIG)
    };
    let times = |pairs: &[(&str, &str)]| {
        let assembled = one(image.clone(), pairs);
        let config: serde_json::Value = serde_json::from_slice(&assembled.documents[0].bytes).unwrap();
        let history = config["history"].as_array().unwrap().iter().map(|h| h["created"].as_str().unwrap().to_owned());
        format!("{} | {}", config["created"].as_str().unwrap(), history.collect::<Vec<_>>().join(" "))
    };
    assert_snapshot!(times(&[]), @"1970-01-01T00:00:05Z | 2010-01-01T00:00:00Z 1970-01-01T00:00:05Z 1970-01-01T00:00:05Z");
    assert_snapshot!(times(&[("source-date-epoch", "7")]), @"1970-01-01T00:00:07Z | 2010-01-01T00:00:00Z 1970-01-01T00:00:07Z 1970-01-01T00:00:07Z");
    assert_snapshot!(times(&[("source-date-epoch", "")]), @"2020-01-01T00:00:00Z | 2010-01-01T00:00:00Z 2001-09-09T01:46:40Z 2001-09-09T01:46:40Z");
}

#[test]
fn several_platforms_make_an_index_in_the_given_order() {
    let f = Fixture::new();
    let layer = f.layer("a", "1", Compression::Gzip);
    let input = Input {
        images: vec![f.image("linux/arm64", vec![layer.clone()]), attested(f.image("linux/amd64", vec![layer]))],
        several: true,
    };
    let pairs = [
        ("annotation-index.i", "1"),
        ("annotation-index-descriptor.id", "2"),
        ("annotation[linux/amd64].m", "3"),
        ("annotation-manifest-descriptor.md", "4"),
    ];
    let image = assemble(&input, &attrs(&pairs)).unwrap();
    assert!(image.is_index());
    assert_eq!(image.layers.len(), 1, "a layer of two images is one blob");
    assert_snapshot!(show_from(&image, 4), @r#"
    --- exporting attestation DOC4
    {"_type":"https://in-toto.io/Statement/v1","subject":"DOC3"}
    --- exporting attestation config DOC5
    {}
    --- exporting attestation manifest DOC6
    {
      "schemaVersion": 2,
      "mediaType": "application/vnd.oci.image.manifest.v1+json",
      "artifactType": "application/vnd.docker.attestation.manifest.v1+json",
      "config": {
        "mediaType": "application/vnd.oci.empty.v1+json",
        "digest": "DOC5",
        "size": 2,
        "data": "e30="
      },
      "layers": [
        {
          "mediaType": "application/vnd.in-toto+json",
          "digest": "DOC4",
          "size": 127,
          "annotations": {
            "in-toto.io/predicate-type": "https://slsa.dev/provenance/v1"
          }
        }
      ],
      "subject": {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": "DOC3",
        "size": 566
      }
    }
    --- exporting manifest list DOC7
    {
      "schemaVersion": 2,
      "mediaType": "application/vnd.oci.image.index.v1+json",
      "manifests": [
        {
          "mediaType": "application/vnd.oci.image.manifest.v1+json",
          "digest": "DOC1",
          "size": 529,
          "annotations": {
            "md": "4"
          },
          "platform": {
            "architecture": "arm64",
            "os": "linux"
          }
        },
        {
          "mediaType": "application/vnd.oci.image.manifest.v1+json",
          "digest": "DOC3",
          "size": 566,
          "annotations": {
            "md": "4"
          },
          "platform": {
            "architecture": "amd64",
            "os": "linux"
          }
        },
        {
          "mediaType": "application/vnd.oci.image.manifest.v1+json",
          "digest": "DOC6",
          "size": 835,
          "annotations": {
            "vnd.docker.reference.digest": "DOC3",
            "vnd.docker.reference.type": "attestation-manifest"
          },
          "platform": {
            "architecture": "unknown",
            "os": "unknown"
          }
        }
      ],
      "annotations": {
        "i": "1"
      }
    }
    --- root
    {"mediaType":"application/vnd.oci.image.index.v1+json","digest":"DOC7","size":1263,"annotations":{"id":"2"}}
    "#);
    let again = assemble(&input, &attrs(&pairs)).unwrap();
    assert_eq!(again.root, image.root);
}

#[test]
fn attestations_of_the_old_form_have_a_config() {
    let f = Fixture::new();
    let image = one(attested(f.image("linux/amd64", Vec::new())), &[("oci-artifact", "false")]);
    assert!(image.is_index(), "an attested image needs an index");
    let config = image.documents.iter().find(|d| d.step.starts_with("exporting attestation config")).unwrap();
    assert_snapshot!(shorten(std::str::from_utf8(&config.bytes).unwrap(), &image), @r#"{"architecture":"unknown","os":"unknown","config":{},"rootfs":{"type":"layers","diff_ids":["DOC2"]}}"#);
}

#[test]
fn docker_media_types() {
    let f = Fixture::new();
    let layers = vec![f.layer("a", "1", Compression::Gzip)];
    let image = one(f.image("linux/amd64", layers), &[("oci-mediatypes", "false")]);
    assert_snapshot!(shorten(std::str::from_utf8(&image.documents[1].bytes).unwrap(), &image), @r#"
    {
      "schemaVersion": 2,
      "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
      "config": {
        "mediaType": "application/vnd.docker.container.image.v1+json",
        "digest": "DOC0",
        "size": 425
      },
      "layers": [
        {
          "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
          "digest": "LAYER0",
          "size": N
        }
      ]
    }
    "#);
}

#[test]
fn foreign_layers_become_ordinary_unless_kept() {
    let f = Fixture::new();
    let mut layer = f.layer("a", "1", Compression::Gzip);
    layer.descriptor.media_type = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip".into();
    layer.descriptor.urls = vec!["https://example.com/layer".into()];
    let listed = |pairs: &[(&str, &str)]| {
        let image = one(f.image("linux/amd64", vec![layer.clone()]), pairs);
        let manifest = image.documents.iter().find(|d| d.descriptor.kind() == MediaType::Manifest).unwrap();
        let manifest: cooper_oci::ImageManifest = serde_json::from_slice(&manifest.bytes).unwrap();
        format!("{} {:?}", manifest.layers[0].media_type, manifest.layers[0].urls)
    };
    assert_snapshot!(listed(&[]), @"application/vnd.oci.image.layer.v1.tar+gzip []");
    assert_snapshot!(listed(&[("prefer-nondist-layers", "true")]), @r#"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip ["https://example.com/layer"]"#);
    assert_snapshot!(listed(&[("prefer-nondist-layers", "true"), ("oci-mediatypes", "false")]), @r#"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip ["https://example.com/layer"]"#);
}

#[test]
fn what_cannot_be_exported_is_refused() {
    let f = Fixture::new();
    let image = || f.image("linux/amd64", Vec::new());
    let fails = |images: Vec<Image>, several, pairs: &[(&str, &str)]| {
        assemble(&Input { images, several }, &attrs(pairs)).unwrap_err().to_string()
    };
    assert_snapshot!(fails(vec![image()], false, &[("annotation-index.a", "1")]), @"index annotations not supported for single platform export");
    assert_snapshot!(fails(vec![image()], true, &[("annotation[linux/arm64].a", "1")]), @"invalid annotation: no platform linux/arm64 found in source");
    assert_snapshot!(fails(vec![attested(image())], true, &[("oci-mediatypes", "false")]), @r#"cannot export attestations with "oci-mediatypes=false""#);
    assert_snapshot!(fails(vec![image()], true, &[("oci-mediatypes", "false"), ("annotation-index.a", "1")]), @r#"cannot export annotations with "oci-mediatypes=false""#);
    assert_snapshot!(fails(vec![image(), f.image("linux/arm64", Vec::new())], false, &[]), @"cannot export multiple platforms without multi-platform enabled");
    assert_snapshot!(fails(vec![with_config(image(), "{}")], false, &[]), @"invalid image config for export: missing architecture");
    assert_snapshot!(fails(vec![with_config(image(), r#"{"architecture":"amd64"}"#)], false, &[]), @"invalid image config for export: missing os");
    assert_snapshot!(fails(vec![with_config(image(), "null")], false, &[]), @"invalid null image config for export");
}

#[test]
fn the_response_names_what_was_made() {
    let f = Fixture::new();
    let attrs = attrs(&[("name", "a,b")]);
    let image = assemble(&Input { images: vec![f.image("linux/amd64", Vec::new())], several: false }, &attrs).unwrap();
    let response = image.response(&Names::of(&attrs, None, &image.root.digest));
    assert_eq!(response[keys::IMAGE_NAME], "a,b");
    assert_eq!(response[keys::DIGEST], image.root.digest.to_string());
    assert_eq!(response[keys::CONFIG_DIGEST], image.documents[0].descriptor.digest.to_string());
    let descriptor = base64::engine::general_purpose::STANDARD.decode(&response[keys::DESCRIPTOR]).unwrap();
    assert_snapshot!(shorten(std::str::from_utf8(&descriptor).unwrap(), &image), @r#"{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"DOC1","size":286,"platform":{"architecture":"amd64","os":"linux"}}"#);
}
