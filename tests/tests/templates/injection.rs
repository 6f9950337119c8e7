//! The injection templates on top of Istio's own.

use serde_json::{Value, json};

use crate::{
    merge::merge,
    named, parse,
    render::{Context, render},
    stock, template, the,
};

pub(crate) const IMAGE: &str = "ghcr.io/ithildin/pilot-agent:0.1.0";
const SOCKET: &str = "unix:///run/spire/sockets/spire-agent.sock";
/// What the agent and the proxy write to.
const WRITTEN: [&str; 3] = [
    "/etc/istio/proxy",
    "/var/lib/istio/data",
    "/var/run/secrets/workload-spiffe-uds",
];

/// A Pod with a sidecar, and the name of the list that its proxy is in.
pub(crate) fn sidecar(native: bool) -> (Value, &'static str) {
    let (name, list) = match native {
        true => ("sidecar-native", "initContainers"),
        false => ("sidecar-classic", "containers"),
    };
    let context = Context {
        native,
        ..Context::default()
    };
    let mut pod = stock(name);
    merge(&mut pod, &parse(&render(&template("spire.yaml"), &context)));
    (pod, list)
}

/// A gateway's Pod; what the Deployment says comes last.
pub(crate) fn gateway(deployment: &Value) -> Value {
    let mut pod = stock("gateway");
    let ours = render(&template("spire-gateway.yaml"), &Context::default());
    merge(&mut pod, &parse(&ours));
    let mut own = deployment["spec"]["template"].clone();
    // The injector takes `auto` for its own choice.
    let proxy = &mut own["spec"]["containers"][0];
    assert_eq!(proxy["image"], "auto");
    proxy.as_object_mut().expect("a container").remove("image");
    merge(&mut pod, &own);
    pod
}

#[test]
fn the_sidecar_is_patched_and_nothing_is_added_twice() {
    for native in [true, false] {
        let (pod, list) = sidecar(native);
        check(&pod, list);
        let before = stock(if native {
            "sidecar-native"
        } else {
            "sidecar-classic"
        });
        let (proxy, was) = (
            the(&pod["spec"][list], "istio-proxy"),
            the(&before["spec"][list], "istio-proxy"),
        );
        for untouched in [
            "args",
            "ports",
            "lifecycle",
            "restartPolicy",
            "securityContext",
        ] {
            assert_eq!(proxy[untouched], was[untouched], "{untouched}");
        }
        assert_eq!(proxy["securityContext"]["runAsNonRoot"], true);
        let init = the(&pod["spec"]["initContainers"], "istio-init");
        assert_eq!(*init, *the(&before["spec"]["initContainers"], "istio-init"));
        let others = pod["spec"]["containers"]
            .as_array()
            .expect("containers")
            .len();
        assert_eq!(others, if native { 1 } else { 2 });
        assert_eq!(proxy["restartPolicy"] == "Always", native);
    }
}

/// What holds for each Pod that has a proxy of ours.
pub(crate) fn check(pod: &Value, list: &str) {
    let spec = &pod["spec"];
    let label = &pod["metadata"]["labels"]["spiffe.io/spire-managed-identity"];
    assert_eq!(*label, "true");
    let all = ["containers", "initContainers"];
    let proxies = all
        .iter()
        .flat_map(|list| named(&spec[*list], "istio-proxy"));
    assert_eq!(proxies.count(), 1, "{spec}");
    let proxy = the(&spec[list], "istio-proxy");
    assert_eq!(proxy["image"], IMAGE);
    assert_eq!(
        the(&proxy["env"], "SPIFFE_ENDPOINT_SOCKET")["value"],
        SOCKET
    );

    let volume = the(&spec["volumes"], "spiffe-workload-api");
    assert_eq!(
        volume["csi"],
        json!({"driver": "csi.spiffe.io", "readOnly": true})
    );
    let mount = the(&proxy["volumeMounts"], "spiffe-workload-api");
    assert_eq!(mount["readOnly"], true);
    let path = mount["mountPath"].as_str().expect("a path");
    assert!(SOCKET.starts_with(&format!("unix://{path}/")));
    unique(&spec["volumes"], "name");
    unique(&proxy["volumeMounts"], "mountPath");
    unique(&proxy["env"], "name");
    for mount in proxy["volumeMounts"].as_array().expect("mounts") {
        the(&spec["volumes"], mount["name"].as_str().expect("a name"));
    }
    for written in WRITTEN {
        let mounts = proxy["volumeMounts"].as_array().expect("mounts");
        let mount = mounts.iter().find(|mount| mount["mountPath"] == written);
        let mount = mount.unwrap_or_else(|| panic!("{written} is not writable"));
        assert_ne!(mount["readOnly"], true, "{written}");
        let volume = the(&spec["volumes"], mount["name"].as_str().expect("a name"));
        assert!(volume.get("csi").is_none(), "{written} is SPIRE's");
    }

    let security = &proxy["securityContext"];
    assert_eq!(security["readOnlyRootFilesystem"], true);
    assert_eq!(security["allowPrivilegeEscalation"], false);
    assert_eq!(security["privileged"], false);
    assert_eq!(security["capabilities"], json!({"drop": ["ALL"]}));
    assert_eq!(
        (&security["runAsUser"], &security["runAsGroup"]),
        (&json!(1337), &json!(1337))
    );
    for probe in ["readinessProbe", "startupProbe"] {
        let asked = &proxy[probe]["httpGet"];
        assert_eq!(
            *asked,
            json!({"path": "/healthz/ready", "port": 15021}),
            "{probe}"
        );
    }
}

fn unique(list: &Value, key: &str) {
    let items = list.as_array().expect("a list");
    let mut keys: Vec<_> = items.iter().map(|item| item[key].as_str()).collect();
    keys.sort_unstable();
    let count = keys.len();
    keys.dedup();
    assert_eq!(keys.len(), count, "{key} twice in {list}");
}

#[test]
fn helm_and_the_operator_install_these_templates() {
    let helm = parse(&template("helm-values.yaml"));
    let operator = parse(&template("istio-operator.yaml"));
    for name in ["spire", "spire-gateway"] {
        let file = template(&format!("{name}.yaml"));
        let lines = file.lines().skip_while(|line| line.starts_with('#'));
        let expected = lines.collect::<Vec<_>>().join("\n");
        for values in [&helm, &operator["spec"]["values"]] {
            let installed = &values["sidecarInjectorWebhook"]["templates"][name];
            let installed = installed.as_str().unwrap_or_else(|| panic!("no {name}"));
            assert_eq!(installed.trim_end(), expected, "{name}");
        }
    }
    assert_eq!(
        helm["meshConfig"]["trustDomain"],
        operator["spec"]["meshConfig"]["trustDomain"]
    );
}
