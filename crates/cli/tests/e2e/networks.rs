//! Networks of steps, devices, and the proxy. Links, addresses and packet filter rules are gone after every test.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use cooper_testkit::outcome;

use crate::{local, read, workshop};

/// Where distributions put the plug-ins.
fn plugins() -> Option<&'static str> {
    ["/opt/cni/bin", "/usr/lib/cni"].into_iter().find(|dir| Path::new(dir).join("bridge").exists())
}

fn bridge(name: &str, subnet: &str, plugins: &str) -> String {
    format!(
        "networkMode = \"bridge\"\nbridgeName = \"{name}\"\nbridgeSubnet = \"{subnet}\"\ncniBinaryPath = \"{plugins}\"\n"
    )
}

fn filter_rules() -> String {
    let outcome = outcome(Command::new("iptables").args(["-t", "nat", "-S"]));
    outcome.text()
}

#[test]
fn a_bridge_comes_and_goes() {
    let Some(plugins) = plugins() else { return eprintln!("no CNI plug-ins on this machine") };
    let shop = workshop();
    let link = Path::new("/sys/class/net/cooptest0");
    shop.configure(&bridge("cooptest0", "10.213.0.0/24", plugins));
    let context = shop
        .dockerfile("RUN /bin/ip route > /r && cat /r && grep 10.213.0.0/24 /r && ! grep -q cooptest /proc/net/dev\n");
    outcome(&mut shop.build(&context)).ok().says("10.213.0.0/24 dev eth0");
    assert!(!link.exists(), "the bridge goes with the builder");
    assert!(!filter_rules().contains("10.213.0."), "and so do its rules");

    // A daemon that is killed can give nothing back. The next builder does, even one that makes no network itself.
    for next in [None, Some("networkMode = \"host\"\n")] {
        shop.configure(&bridge("cooptest0", "10.213.0.0/24", plugins));
        let daemon = shop.daemon();
        outcome(shop.build_with(&daemon, &context).arg("--no-cache")).ok();
        assert!(link.exists() && filter_rules().contains("10.213.0."));
        daemon.kill();
        next.inspect(|next| shop.configure(next));
        outcome(&mut shop.build(&shop.dockerfile("RUN /bin/true\n"))).ok();
        assert!(!link.exists());
        assert!(!filter_rules().contains("10.213.0."), "{}", filter_rules());
    }
}

#[test]
fn a_network_that_cannot_be_is_told_at_the_start() {
    let shop = workshop();
    let context = shop.dockerfile("");
    for (section, text) in [
        ("networkMode = \"cni\"\ncniConfigPath = \"/nowhere.json\"\n", "read the CNI configuration /nowhere.json"),
        ("networkMode = \"bridge\"\ncniBinaryPath = \"/nowhere\"\n", "CNI plug-in \"bridge\" is not in /nowhere"),
        ("networkMode = \"other\"\n", "invalid network mode"),
    ] {
        shop.configure(section);
        outcome(&mut shop.build(&context)).refused(&[text]);
    }
}

#[test]
fn devices_are_given_by_name() {
    let shop = workshop();
    let specs = shop.path("cdi");
    fs::create_dir(&specs).unwrap();
    let spec = "cdiVersion: '0.6.0'\nkind: test.com/dev\ndevices:\n- name: nul\n  containerEdits:\n    env: [GIVEN=yes]\n    \
        deviceNodes: [{path: /dev/mine, hostPath: /dev/null, fileMode: 420, uid: 7}]\n";
    fs::write(specs.join("test.yaml"), spec).unwrap();
    shop.configure(&format!("[cdi]\nspecDirs = [{:?}]\n", specs.display().to_string()));
    let steps = "RUN --device=test.com/dev=nul test $GIVEN = yes && echo x > /dev/mine && stat -c '%a %u' /dev/mine\n\
        RUN ! test -e /dev/mine\nRUN --device=test.com/other=x,required=false true\n";
    let context = shop.context(&[("Dockerfile", &format!("{}{steps}", cooper_testkit::workshop::BUSYBOX))]);
    let denied = "device test.com/dev=nul is requested by the build but not allowed";
    outcome(&mut shop.build(&context)).refused(&[denied]);
    outcome(shop.build(&context).args(["--allow", "device=test.com/dev"])).ok().says("644 7");
}

#[test]
fn a_proxy_writes_down_what_steps_fetch() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    std::thread::spawn(move || {
        for socket in server.incoming() {
            let mut socket = socket.unwrap();
            let mut request = [0; 4096];
            let read = socket.read(&mut request).unwrap_or(0);
            let absent = String::from_utf8_lossy(&request[..read]).contains("/absent");
            let status = if absent { "404 Not Found" } else { "200 OK" };
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello");
            let _ = socket.write_all(answer.as_bytes());
        }
    });
    let shop = workshop();
    fs::write(shop.path("config.toml"), "proxyNetwork = true\n[worker.oci]\ngc = false\n").unwrap();
    let lines = format!(
        "COPY bundle /etc/ssl/certs/ca-certificates.crt\nENV PATH=/bin\n\
         RUN grep -q 'buildkit proxy CA begin' /etc/ssl/certs/ca-certificates.crt && NO_PROXY= no_proxy= wget -q -O /got http://{address}/file && cat /got\n\
         RUN ! NO_PROXY= no_proxy= wget -q -O- http://{address}/absent\n\
         RUN ! env -u HTTP_PROXY -u http_proxy wget -T 2 -q -O- http://{address}/around\n\
         RUN --network=none ! env | grep -i _PROXY && test \"$(cat /etc/ssl/certs/ca-certificates.crt)\" = own\n"
    );
    let context =
        shop.context(&[("Dockerfile", &format!("{}{lines}", cooper_testkit::workshop::BUSYBOX)), ("bundle", "own\n")]);
    let told = outcome(shop.build(&context).arg("-o").arg(local(&shop.path("out"))).arg("--provenance=mode=max")).ok();
    told.says("proxy network requests:").says(&format!("- GET http://{address}/file -> 200"));
    let provenance: serde_json::Value = serde_json::from_str(&read(shop.path("out/provenance.json"))).unwrap();
    let predicate = &provenance["predicate"];
    let fetched = serde_json::json!({
        "uri": format!("http://{address}/file"),
        "digest": {"sha256": cooper_testkit::image::sha256(b"hello").trim_start_matches("sha256:")},
    });
    let materials = predicate["buildDefinition"]["resolvedDependencies"].as_array().unwrap();
    assert!(materials.contains(&fetched), "{materials:?}");
    let network = &predicate["runDetails"]["metadata"]["buildkit_metadata"]["network"];
    assert_eq!(network["mode"], "proxy");
    let unnamed = &network["proxy"]["incomplete"][0];
    assert_eq!(unnamed["uri"], format!("http://{address}/absent"));
    assert_eq!(unnamed["reason"], "unsuccessful_response");
}
