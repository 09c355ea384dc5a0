use super::*;

const SPEC: &str = r#"
cdiVersion: "0.6.0"
kind: "vendor1.com/device"
annotations:
  foo.bar.baz: FOO
containerEdits:
  env: [COMMON=1]
devices:
- name: foo
  annotations: {org.mobyproject.buildkit.device.class: class1, org.mobyproject.buildkit.device.autoallow: true}
  containerEdits:
    env: [FOO=injected]
    deviceNodes: [{path: /dev/foo, hostPath: /dev/null, fileMode: 438}]
- name: bar
  annotations: {org.mobyproject.buildkit.device.class: class1}
  containerEdits: {env: [BAR=injected]}
- name: baz
  containerEdits:
    env: [BAZ=injected]
    mounts: [{hostPath: /etc, containerPath: /mnt, options: [ro, rbind]}]
"#;

fn registry(files: &[(&str, &str)]) -> (tempfile::TempDir, Registry) {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let registry = Registry::new(vec![dir.path().to_owned(), "/nowhere".into()], vec!["vendor1.com/device=baz".into()]);
    (dir, registry)
}

#[test]
fn requests_by_every_kind_of_name() {
    let (_dir, registry) = registry(&[("v.yaml", SPEC)]);
    let cases = [
        ("vendor1.com/device=foo", &["foo"][..]),
        ("vendor1.com/device", &["bar"]),
        ("vendor1.com/device=*", &["bar", "baz", "foo"]),
        ("class1", &["bar", "foo"]),
        ("vendor1.com/device=nothing", &[]),
        ("vendor1.com/dev", &[]),
        ("", &[]),
    ];
    for (request, expected) in cases {
        let found = registry.find(request, true).unwrap();
        let names: Vec<_> = found.iter().map(|d| d.name.strip_prefix("vendor1.com/device=").unwrap()).collect();
        assert_eq!(names, expected, "{request}");
    }
    let error = registry.find("vendor2.com/device=x", false).unwrap_err().to_string();
    assert_eq!(error, r#"required device "vendor2.com/device=x" is not registered"#);
}

#[test]
fn some_devices_are_for_everybody() {
    let (_dir, registry) = registry(&[("v.yaml", SPEC)]);
    let allowed: Vec<_> = registry.devices().into_iter().map(|d| (d.name, d.auto_allow)).collect();
    let expected = [("bar", false), ("baz", true), ("foo", true)];
    assert_eq!(allowed, expected.map(|(name, allow)| (format!("vendor1.com/device={name}"), allow)));
    assert_eq!(registry.devices()[0].annotations["foo.bar.baz"], "FOO");
}

#[test]
fn edits_are_gathered_once() {
    let (_dir, registry) = registry(&[("v.yaml", SPEC)]);
    let name = |n: &str| format!("vendor1.com/device={n}");
    let edits = registry.edits(&[name("foo"), name("baz"), name("foo")]).unwrap();
    assert_eq!(edits.env, ["COMMON=1", "FOO=injected", "BAZ=injected"]);
    assert_eq!(edits.device_nodes[0].source(), "/dev/null");
    assert_eq!(edits.device_nodes[0].file_mode, Some(0o666));
    assert!(edits.mounts[0].readonly());
    assert!(registry.edits(&[name("gone")]).is_err());
}

#[test]
fn changes_are_seen_and_bad_files_left_out() {
    let json = r#"{"cdiVersion":"0.6.0","kind":"j.org/x","devices":[{"name":"0","containerEdits":{"env":["A=b"]}}]}"#;
    let bad = [
        ("a.yaml", "kind: [unclosed"),
        ("b.json", "{}"),
        ("c.yaml", "cdiVersion: '1'\nkind: novendor\n"),
        (
            "d.yaml",
            "cdiVersion: '1'\nkind: v.com/c\ndevices: [{name: x, containerEdits: {deviceNodes: [{path: dev}]}}]",
        ),
        ("e.txt", json),
    ];
    let (dir, registry) = registry(&bad);
    assert_eq!(registry.devices(), []);
    std::fs::write(dir.path().join("j.json"), json).unwrap();
    assert_eq!(registry.devices().len(), 1);
    std::fs::write(dir.path().join("k.json"), json).unwrap();
    assert_eq!(registry.devices(), [], "two files describe the same device");
    std::fs::remove_file(dir.path().join("k.json")).unwrap();
    assert_eq!(registry.devices()[0].name, "j.org/x=0");
}
