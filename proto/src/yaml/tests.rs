use serde_json::json;

use super::*;

#[test]
fn scalars_are_envoys() {
    let text = "a: yes\nb: 0755\nc: 1.10\nd: 18446744073709551615\ne: '80'\nf: ~\ng: -3\nh: 5s\n";
    let expected = json!({
        "a": true, "b": 755, "c": "1.10", "d": "18446744073709551615",
        "e": "80", "f": null, "g": -3, "h": "5s",
    });
    assert_eq!(load(text).unwrap(), expected);
}

#[test]
fn tabs_after_values_and_merge_keys() {
    let text = "a: &x\t\n  p: 1\nb:\n  <<: *x\n  q: 2\n";
    assert_eq!(
        load(text).unwrap(),
        json!({"a": {"p": 1}, "b": {"q": 2, "p": 1}})
    );
    assert_eq!(load("").unwrap(), Value::Null);
}

#[test]
fn broken_documents_say_where() {
    assert!(
        matches!(load("a: {b: [1,2}\n"), Err(YamlError::Syntax(text)) if text.contains("line 1"))
    );
    assert!(load("a: 1\na: 2\n").is_err());
    assert_eq!(load("a: 1\n---\nb: 2\n"), Err(YamlError::Documents(2)));
    let bomb = "a: &a [1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n\
                c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\n\
                e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n\
                g: [*f,*f,*f,*f,*f,*f,*f,*f,*f]\n";
    assert_eq!(load(bomb), Err(YamlError::Size));
    let nested = "[".repeat(101) + &"]".repeat(101);
    assert_eq!(load(&nested), Err(YamlError::Size));
}

#[test]
fn aliases_repeat_what_they_name() {
    let text = "a: &x {p: [1, two]}\nb: *x\nc: [*x, &y 3, *y]\n";
    let x = json!({"p": [1, "two"]});
    assert_eq!(load(text).unwrap(), json!({"a": x, "b": x, "c": [x, 3, 3]}));
    assert_eq!(load("a: &a [*a]\n"), Err(YamlError::Size));
    assert!(matches!(load("a: *b\n"), Err(YamlError::Syntax(_))));
}

#[test]
fn keys_are_text_and_each_there_once() {
    assert_eq!(
        load("5: a\nyes: b\n").unwrap(),
        json!({"5": "a", "true": "b"})
    );
    assert_eq!(load("[1]: a\n"), Err(YamlError::Key));
    let many: String = (0..40).map(|i| format!("k{i}: 1\n")).collect();
    assert!(load(&many).is_ok());
    for key in ["k0", "k11", "k12", "k39"] {
        let twice = format!("{many}{key}: 2\n");
        assert_eq!(load(&twice), Err(YamlError::DuplicateKey(key.to_owned())));
    }
}

#[test]
fn documents_are_read_by_the_core_schema() {
    let text = "a: yes\nb: 1.5\nc: 0x10\nd: '1'\n---\n---\n- true\n";
    let expected = [
        json!({"a": "yes", "b": 1.5, "c": 16, "d": "1"}),
        json!([true]),
    ];
    assert_eq!(documents(text).unwrap(), expected);
    assert_eq!(documents("a: .inf\n"), Err(YamlError::Number));
}
