//! The manifests: that they are safe, and that they agree with each other.

use serde_json::{Value, json};

use crate::{
    documents,
    injection::{IMAGE, check, gateway},
    kind, named, parse, template, the,
};

const GATEWAYS: [&str; 3] = [
    "ingress-gateway.yaml",
    "egress-gateway.yaml",
    "east-west-gateway.yaml",
];

#[test]
fn gateways_are_injected_and_confined() {
    for file in GATEWAYS {
        let documents = documents(file);
        let deployment = kind(&documents, "Deployment");
        let template = &deployment["spec"]["template"];
        assert_eq!(
            template["metadata"]["labels"]["sidecar.istio.io/inject"],
            "true"
        );
        let chosen = &template["metadata"]["annotations"]["inject.istio.io/templates"];
        assert_eq!(*chosen, "gateway,spire-gateway", "{file}");

        let pod = gateway(deployment);
        check(&pod, "containers");
        let security = &pod["spec"]["securityContext"];
        assert_eq!(security["runAsNonRoot"], true);
        assert_eq!(
            security["seccompProfile"],
            json!({"type": "RuntimeDefault"})
        );
        let account = &kind(&documents, "ServiceAccount")["metadata"]["name"];
        assert_eq!(pod["spec"]["serviceAccountName"], *account);

        // The Service finds the Pods, and each of its ports a port of theirs.
        let service = kind(&documents, "Service");
        let selector = service["spec"]["selector"].as_object().expect("labels");
        assert_eq!(
            deployment["spec"]["selector"]["matchLabels"],
            json!(selector)
        );
        for (label, value) in selector {
            assert_eq!(
                template["metadata"]["labels"][label], *value,
                "{file} {label}"
            );
        }
        let proxy = the(&pod["spec"]["containers"], "istio-proxy");
        for port in service["spec"]["ports"].as_array().expect("ports") {
            let open = proxy["ports"].as_array().expect("ports").iter();
            let mut open = open.map(|open| &open["containerPort"]);
            assert!(
                open.any(|open| *open == port["targetPort"]),
                "{file}: {port}"
            );
        }
    }
}

#[test]
fn networks_are_joined_by_the_east_west_gateway() {
    let documents = documents("east-west-gateway.yaml");
    let label = "topology.istio.io/network";
    let network = &kind(&documents, "Service")["metadata"]["labels"][label];
    let template = &kind(&documents, "Deployment")["spec"]["template"];
    assert_eq!(template["metadata"]["labels"][label], *network);
    let proxy = the(&template["spec"]["containers"], "istio-proxy");
    let view = the(&proxy["env"], "ISTIO_META_REQUESTED_NETWORK_VIEW");
    assert_eq!(view["value"], *network);
    let server = &kind(&documents, "Gateway")["spec"]["servers"][0];
    assert_eq!(
        (&server["port"]["number"], &server["tls"]["mode"]),
        (&json!(15443), &json!("AUTO_PASSTHROUGH"))
    );
}

#[test]
fn identities_are_for_the_pods_that_the_templates_label() {
    let identities = documents("identities.yaml");
    let mesh = &kind(&identities, "ClusterSPIFFEID")["spec"];
    let selected = &mesh["podSelector"]["matchLabels"];
    for name in ["spire.yaml", "spire-gateway.yaml"] {
        let text = template(name);
        let (_, labels) = text.split_once("  labels:\n").expect("labels");
        let label = parse(labels.lines().next().expect("a label"));
        assert_eq!(label, *selected, "{name}");
    }
    let federation = documents("federation.yaml");
    let domain = &kind(&federation, "ClusterFederatedTrustDomain")["spec"];
    assert_eq!(mesh["federatesWith"], json!([domain["trustDomain"]]));
    assert_eq!(domain["className"], mesh["className"]);
    let server = domain["bundleEndpointProfile"]["endpointSPIFFEID"].as_str();
    let trust_domain = domain["trustDomain"].as_str().expect("a name");
    assert_eq!(
        server,
        Some(format!("spiffe://{trust_domain}/spire/server").as_str())
    );
}

#[test]
fn the_walkthrough_expects_the_gateway_that_it_meets() {
    let (server, client) = (
        documents("walkthrough/server.yaml"),
        documents("walkthrough/client.yaml"),
    );
    for documents in [&server, &client] {
        let pod = &kind(documents, "Deployment")["spec"]["template"];
        let chosen = &pod["metadata"]["annotations"]["inject.istio.io/templates"];
        assert_eq!(*chosen, "sidecar,spire");
    }
    let ingress = documents("ingress-gateway.yaml");
    let account = &kind(&ingress, "ServiceAccount")["metadata"];
    let (name, namespace) = (account["name"].as_str(), account["namespace"].as_str());
    let id = format!(
        "spiffe://example.org/ns/{}/sa/{}",
        namespace.expect("one"),
        name.expect("one")
    );
    let entry = &kind(&client, "ServiceEntry")["spec"];
    assert_eq!(entry["subjectAltNames"], json!([id]));

    let gateway = &kind(&server, "Gateway")["spec"];
    let labels = &kind(&ingress, "Deployment")["spec"]["template"]["metadata"]["labels"];
    assert_eq!(gateway["selector"]["istio"], labels["istio"]);
    let listened = &gateway["servers"][0]["port"]["number"];
    let service = &kind(&ingress, "Service")["spec"]["ports"];
    let https = the(service, "https");
    assert_eq!(https["targetPort"], *listened);
    assert_eq!(entry["ports"][0]["targetPort"], https["port"]);
}

#[test]
fn the_agent_in_the_pod_is_found_by_its_workloads() {
    let documents = documents("x509pop/statefulset.yaml");
    let pod = &kind(&documents, "StatefulSet")["spec"]["template"]["spec"];
    assert_eq!(pod["shareProcessNamespace"], true);
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    let containers = ["initContainers", "containers"];
    for container in containers
        .iter()
        .flat_map(|list| pod[*list].as_array().expect("a list"))
    {
        let security = &container["securityContext"];
        assert_eq!(security["readOnlyRootFilesystem"], true, "{container}");
        assert_eq!(security["allowPrivilegeEscalation"], false, "{container}");
        assert_eq!(
            security["capabilities"],
            json!({"drop": ["ALL"]}),
            "{container}"
        );
        for mount in container["volumeMounts"].as_array().into_iter().flatten() {
            the(&pod["volumes"], mount["name"].as_str().expect("a name"));
        }
    }
    let proxy = the(&pod["containers"], "proxy");
    assert_eq!(proxy["image"], IMAGE);
    let data = &kind(&documents, "ConfigMap")["data"];
    let text = |name: &str| {
        data[name]
            .as_str()
            .unwrap_or_else(|| panic!("no {name}"))
            .to_owned()
    };
    let envoy = parse(&text("envoy.yaml"));
    let clusters = &envoy["static_resources"]["clusters"];
    let agent = the(clusters, "spire_agent");
    let socket =
        &agent["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"];
    let socket = socket["pipe"]["path"].as_str().expect("a path");
    assert!(text("agent.conf").contains(&format!("socket_path = \"{socket}\"")));
    assert!(text("certificate.sh").contains("name=spire-agent-x509pop-$POD_NAME"));
    for container in ["spire-agent", "proxy"] {
        let mounts = &the(&pod["containers"], container)["volumeMounts"];
        let mounts = named(mounts, "sockets");
        assert!(mounts.iter().any(|mount| {
            mount["mountPath"]
                .as_str()
                .is_some_and(|path| socket.starts_with(path))
        }));
    }
}

#[test]
fn the_image_is_where_the_manifests_look_for_it() {
    let dockerfile = template("../Dockerfile");
    assert!(dockerfile.contains("/usr/local/bin/"), "{dockerfile}");
    assert!(dockerfile.contains("USER 1337:1337"));
    assert!(
        dockerfile.contains("WORKDIR /\n"),
        "relative paths are meant from the root"
    );
    assert!(dockerfile.contains(r#"ENTRYPOINT ["/usr/local/bin/pilot-agent"]"#));
    let documents = documents("x509pop/statefulset.yaml");
    let pod = &kind(&documents, "StatefulSet")["spec"]["template"]["spec"];
    let command: &Value = &the(&pod["containers"], "proxy")["command"];
    assert_eq!(*command, json!(["/usr/local/bin/ithildin-proxy"]));
}
