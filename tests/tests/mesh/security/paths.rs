//! Forms of a path: what policies and services see of them, in each mode of the mesh.

use ithildin_tests::{Mesh, curl::Answer, eventually, mesh::SLEEP};

use super::{authorization, policy, with_policy};
use crate::support::read;

pub(super) fn all(mesh: &Mesh) {
    disguised(mesh);
    policy(mesh, "");
    let plain: Vec<(String, String)> = PLAIN
        .iter()
        .map(|path| ((*path).into(), (*path).into()))
        .collect();
    modes(mesh, "NONE", &pairs(NONE));
    modes(mesh, "MERGE_SLASHES", &pairs(MERGED));
    let escaped = (1..=255_u8).map(escaped);
    let decoded: Vec<_> = pairs(DECODED)
        .into_iter()
        .chain(plain)
        .chain(escaped)
        .collect();
    modes(mesh, "DECODE_AND_MERGE_SLASHES", &decoded);
    let answer = ask(mesh, "/admin%00");
    assert_eq!(answer.status, 400, "{answer:?}");
    modes(mesh, "BASE", &pairs(BASE));
}

/// However it is written, what is not public stays so.
fn disguised(mesh: &Mesh) {
    let private = ["/private"]
        .into_iter()
        .chain(DISGUISES.iter().copied())
        .map(|path| (path, 403));
    let rows = [("/public", 200), ("/public/../public", 200)]
        .into_iter()
        .chain(private);
    let rule = "  rules: [{to: [{operation: {paths: [/public*], methods: [GET]}}]}]";
    with_policy(
        mesh,
        "what is public",
        &authorization(rule),
        &[("http://web/private", &[], 403)],
    );
    for (path, status) in rows {
        let answer = ask(mesh, path);
        assert_eq!(answer.status, status, "{path}: {answer:?}");
    }
}

const DISGUISES: &[&str] = &[
    "/public/../private",
    "/public/./../private",
    "/public/.././private",
    "/public/%2E%2E/private",
    "/public/%2e%2e/private",
    "/public/%2E/%2E%2E/private",
    "/public/%2e/%2e%2e/private",
    "/public/%2E%2E/%2E/private",
];

/// As it was sent, and as the service sees it.
const NONE: &[(&str, &str)] = &[
    ("/app/../admin", "/app/../admin"),
    ("/app//", "/app//"),
    ("/app/%2f", "/app/%2f"),
    ("/xyz%30..//abc", "/xyz%30..//abc"),
    ("/app/%2E./admin", "/app/%2E./admin"),
    (r"/app\admin", r"/app\admin"),
    (
        r"/%5Capp%2f%5c%2F%2e%2e%2fadmin%5c\abc",
        r"/%5Capp%2f%5c%2F%2e%2e%2fadmin%5c\abc",
    ),
    ("/app//../../admin", "/app//../../admin"),
];

const BASE: &[(&str, &str)] = &[
    ("/", "/"),
    ("/app#foo", "/app"),
    ("/app/", "/app/"),
    ("/app/../admin", "/admin"),
    ("/app//", "/app//"),
    ("/app/%2f", "/app/%2f"),
    ("/app%2f/", "/app%2f/"),
    ("/xyz%30..//abc", "/xyz0..//abc"),
    ("/app/%2E./admin", "/admin"),
    (r"/app\admin", "/app/admin"),
    (r"/app/\/\/\admin", "/app//////admin"),
    ("/%2Fapp%5cadmin%5Cabc", "/%2Fapp%5cadmin%5Cabc"),
    (
        r"/%5Capp%2f%5c%2F%2e%2e%2fadmin%5c\abc",
        "/%5Capp%2f%5c%2F..%2fadmin%5c/abc",
    ),
    ("/app//../admin", "/app/admin"),
    ("/app//../../admin", "/admin"),
];

const MERGED: &[(&str, &str)] = &[
    ("/app//", "/app/"),
    ("/app/%2f", "/app/%2f"),
    ("/app%2f/", "/app%2f/"),
    ("/xyz%30..//abc", "/xyz0../abc"),
    (r"/app/\/\/\admin", "/app/admin"),
    ("/%2Fapp%5cadmin%5Cabc", "/%2Fapp%5cadmin%5Cabc"),
    ("/app//../admin", "/app/admin"),
    ("/app//../../admin", "/admin"),
];

const DECODED: &[(&str, &str)] = &[
    ("/app/%2f", "/app/"),
    ("/app%2f/", "/app/"),
    ("/xyz%30..//abc", "/xyz0../abc"),
    (r"/app/\/\/\admin", "/app/admin"),
    ("/%2Fapp%5cadmin%5Cabc", "/app/admin/abc"),
    (r"/%5Capp%2f%5c%2F%2e%2e%2fadmin%5c\abc", "/app/admin/abc"),
    ("/app//../../admin", "/admin"),
    ("/%c0%2e%c0%2e/admin", "/%c0.%c0./admin"),
    ("/%c0%2fadmin", "/%c0/admin"),
    // Parameters of a segment do not hide what it is.
    ("/..;/admin", "/admin"),
];

/// What looks like an escape, and is none.
const PLAIN: &[&str] = &[
    "/0x2e0x2e/admin",
    "/0x5c0x5cadmin",
    "/%25c0%25ae%25c1%259cadmin",
    "/%252e%252e/admin",
    "/%252e%252e%252fadmin",
    "/%c1%9cadmin",
    "/%c0%ae%c0%ae/admin",
    "/.../admin",
    "/;/admin",
    "/admin;a=b/xyz",
    "/admin,a=b/xyz",
    "/ADMIN",
];

/// An escaped octet, and what is decoded of it: letters, digits, and marks that have no meaning in a path.
fn escaped(octet: u8) -> (String, String) {
    let sent = format!("/admin%{octet:02x}");
    let seen = match octet {
        b'/' | b'\\' => "/admin/".to_owned(),
        b'-' | b'.' | b'_' | b'~' => format!("/admin{}", char::from(octet)),
        _ if octet.is_ascii_alphanumeric() => format!("/admin{}", char::from(octet)),
        _ => sent.clone(),
    };
    (sent, seen)
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(sent, seen)| ((*sent).into(), (*seen).into()))
        .collect()
}

/// The mesh's configuration with this mode. The first pair is waited for.
fn modes(mesh: &Mesh, mode: &str, pairs: &[(String, String)]) {
    let normal = "    rootNamespace: istio-system\n";
    let with = format!("{normal}    pathNormalization: {{normalization: {mode}}}\n");
    mesh.istiod
        .apply("mesh.yaml", &read("mesh.yaml").replace(normal, &with));
    let check = |sent: &str, seen: &str| {
        let answer = ask(mesh, sent).expect_status(200)?;
        let request = if answer.body.starts_with('{') {
            answer.echoed()["path"].take()
        } else {
            "/".into()
        };
        if request == seen { Ok(()) } else { Err(answer) }
    };
    eventually(mode, || {
        pairs
            .iter()
            .take(PROMPT)
            .try_for_each(|(sent, seen)| check(sent, seen))
    });
    for (sent, seen) in pairs {
        if let Err(answer) = check(sent, seen) {
            panic!("{mode}: {sent} is not {seen}: {answer:?}");
        }
    }
}

/// How many pairs tell one mode from the others.
const PROMPT: usize = 8;

fn ask(mesh: &Mesh, target: &str) -> Answer {
    mesh.curl(SLEEP.name, "http://web/", &["--request-target", target])
}
