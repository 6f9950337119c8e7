//! The DNS proxy of an agent whose configuration is a folder.

use std::{
    fs,
    net::{Ipv4Addr, UdpSocket},
};

use crate::lab::{LIMIT, Lab, free_port, http, until};

const NO_ERROR: u8 = 0;
const SERVER_FAILURE: u8 = 2;

#[test]
fn names_of_the_folder_are_answered() {
    let mut lab = Lab::new();
    fs::write(lab.path("istio/broken.yaml"), "kind: Gateway\nspec: [\n").unwrap();
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let agent = lab.agent_with(
        "agent",
        "builtin",
        &[
            ("ISTIO_META_ENABLE_DNS_SERVER", "true"),
            ("DNS_PROXY_ADDR", &address),
        ],
    );
    agent.until_ready(503, "DNS: no table of names has arrived");
    assert_eq!(ask(port, "web.default").0, SERVER_FAILURE);

    lab.authority();
    lab.gateway();
    fs::remove_file(lab.path("istio/broken.yaml")).unwrap();
    service(&lab, Ipv4Addr::new(10, 1, 0, 1));
    agent.until_ready(200, "ready");
    for name in ["web.default.svc.cluster.local", "WEB.default", "web"] {
        let expected = (NO_ERROR, vec![Ipv4Addr::new(10, 1, 0, 1)]);
        assert_eq!(ask(port, name), expected, "{name}");
    }
    let table = http(agent.ports.status, "GET", "/debug/ndsz").unwrap().1;
    let table: serde_json::Value = serde_json::from_str(&table).unwrap();
    assert_eq!(
        table["table"]["web.default.svc.cluster.local"],
        serde_json::json!({
            "ips": ["10.1.0.1"],
            "registry": "Kubernetes",
            "shortname": "web",
            "namespace": "default",
        })
    );
    let metrics = http(agent.ports.status, "GET", "/stats/prometheus")
        .unwrap()
        .1;
    assert!(
        metrics.contains("istio_agent_dns_requests_total 4"),
        "{metrics}"
    );

    // A change of the folder is a change of the answers.
    service(&lab, Ipv4Addr::new(10, 1, 0, 2));
    until("the new address is answered", || {
        ask(port, "web").1 == [Ipv4Addr::new(10, 1, 0, 2)]
    });
}

fn service(lab: &Lab, ip: Ipv4Addr) {
    let yaml = format!(
        "\
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: default}}
spec: {{clusterIP: {ip}, ports: [{{name: http, port: 8000}}]}}
"
    );
    fs::write(lab.path("istio/service.yaml"), yaml).unwrap();
}

/// Asks for addresses of `name`: the response code, and the addresses where there is no alias.
fn ask(port: u16, name: &str) -> (u8, Vec<Ipv4Addr>) {
    let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend(label.bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    client.connect(("127.0.0.1", port)).unwrap();
    client.send(&query).unwrap();
    let mut answer = [0; 512];
    let length = client.recv(&mut answer).unwrap();
    // The id and the question come back, each record behind it has 16 bytes.
    assert_eq!(answer[..2], query[..2]);
    assert_eq!(answer[12..query.len()], query[12..]);
    let records = answer[query.len()..length].chunks_exact(16);
    let address = |record: &[u8]| {
        let bytes: [u8; 4] = record[12..].try_into().unwrap();
        bytes.into()
    };
    (answer[3] & 0x0f, records.map(address).collect())
}
