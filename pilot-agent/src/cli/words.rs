//! The words of the command line as Istio's agent takes them.
//!
//! Its library looks for the command wherever it stands, and lets flags that it does not know pass on the
//! root command and on `proxy`: manifests of many releases start it. Clap refuses both, so the words are
//! put in order first.

use std::ffi::OsString;

use clap::{Arg, Command};

/// The command whose unknown flags are let pass.
const PROXY: &str = "proxy";

/// What clap gets.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Words {
    /// The command first.
    pub(super) words: Vec<OsString>,
    /// What was left out, as it was written.
    pub(super) ignored: Vec<String>,
}

/// Puts the words behind the program's name in order for `root`, which has been built.
pub(super) fn arrange(root: &Command, words: Vec<OsString>) -> Words {
    let Some(at) = command(root, &words) else {
        return known_only(root, None, words);
    };
    let mut rest = words;
    let name = rest.remove(at);
    match root.find_subcommand(&name) {
        Some(proxy) if proxy.get_name() == PROXY => known_only(proxy, Some(name), rest),
        _ => Words {
            words: [vec![name], rest].concat(),
            ignored: Vec::new(),
        },
    }
}

/// Where the command stands: the first word that is neither a flag nor the value of one.
fn command(root: &Command, words: &[OsString]) -> Option<usize> {
    let mut at = 0;
    while let Some(word) = words.get(at) {
        let text = word.to_string_lossy();
        let takes_next = match text.strip_prefix("--") {
            Some("") => return None,
            Some(name) => !name.contains('=') && !long(root, name).is_some_and(stands_alone),
            None if text.len() == 2 && text.starts_with('-') => {
                !short(root, text.chars().nth(1)).is_some_and(stands_alone)
            }
            None if !text.starts_with('-') && !text.is_empty() => return Some(at),
            None => false,
        };
        at += if takes_next { 2 } else { 1 };
    }
    None
}

/// Leaves out the flags that `command` does not know, with their values, and all arguments but the first.
fn known_only(command: &Command, name: Option<OsString>, words: Vec<OsString>) -> Words {
    let takes_arguments = name.is_some();
    let mut taken = Words {
        words: name.into_iter().collect(),
        ignored: Vec::new(),
    };
    let mut arguments = Vec::new();
    let mut rest = words.into_iter().peekable();
    while let Some(word) = rest.next() {
        let text = word.to_string_lossy().into_owned();
        if text == "--" {
            arguments.extend(rest);
            break;
        }
        if let Some(flag) = text.strip_prefix("--") {
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (flag, None),
            };
            match long(command, name) {
                Some(arg) if value.is_some() || stands_alone(arg) => taken.words.push(word),
                Some(_) => match rest.next() {
                    // In one word: the value may begin with a dash.
                    Some(value) => {
                        let mut joined = word;
                        joined.push("=");
                        joined.push(value);
                        taken.words.push(joined);
                    }
                    None => taken.words.push(word),
                },
                None => {
                    taken.ignored.push(text.clone());
                    if value.is_none() {
                        skip_value(&mut rest, &mut taken.ignored);
                    }
                }
            }
        } else if text.starts_with('-') && text.len() > 1 {
            shorts(command, &text, &mut rest, &mut taken);
        } else {
            arguments.push(word);
        }
    }
    let mut arguments = arguments.into_iter();
    if takes_arguments {
        taken.words.extend(arguments.next());
    }
    let more = arguments.map(|word| word.to_string_lossy().into_owned());
    taken.ignored.extend(more);
    taken
}

/// `-a`, `-abc`, `-a=b`.
fn shorts(
    command: &Command,
    text: &str,
    rest: &mut std::iter::Peekable<std::vec::IntoIter<OsString>>,
    taken: &mut Words,
) {
    let mut letters = text.chars().skip(1).peekable();
    while let Some(letter) = letters.next() {
        if short(command, Some(letter)).is_some() {
            taken.words.push(format!("-{letter}").into());
            continue;
        }
        if letters.peek() == Some(&'=') {
            let value: String = letters.collect();
            taken.ignored.push(format!("-{letter}{value}"));
            return;
        }
        taken.ignored.push(format!("-{letter}"));
        skip_value(rest, &mut taken.ignored);
    }
}

/// The word behind an unknown flag is its value, unless it is a flag.
fn skip_value(
    rest: &mut std::iter::Peekable<std::vec::IntoIter<OsString>>,
    ignored: &mut Vec<String>,
) {
    let value = rest.next_if(|next| !next.to_string_lossy().starts_with('-'));
    ignored.extend(value.map(|word| word.to_string_lossy().into_owned()));
}

fn long<'a>(command: &'a Command, name: &str) -> Option<&'a Arg> {
    let mut args = command.get_arguments();
    args.find(|arg| arg.get_long() == Some(name))
}

fn short(command: &Command, letter: Option<char>) -> Option<&Arg> {
    let mut args = command.get_arguments();
    args.find(|arg| letter.is_some() && arg.get_short() == letter)
}

/// Whether the next word is not its value.
fn stands_alone(arg: &Arg) -> bool {
    !arg.get_action().takes_values() || arg.is_require_equals_set()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use proptest::prelude::*;

    use super::*;
    use crate::cli::Cli;

    fn arranged(text: &str) -> Words {
        let mut root = Cli::command();
        root.build();
        arrange(&root, text.split_whitespace().map(OsString::from).collect())
    }

    /// What Istio's agent makes of the same words.
    #[test]
    fn unknown_flags_pass_where_istio_lets_them() {
        for (text, words, ignored) in [
            ("proxy router", "proxy router", ""),
            ("proxy --foo=1 router", "proxy router", "--foo=1"),
            ("proxy --foo 1 router", "proxy router", "--foo 1"),
            (
                "proxy --foo --domain x router",
                "proxy --domain=x router",
                "--foo",
            ),
            ("proxy --domain x sidecar", "proxy --domain=x sidecar", ""),
            ("proxy --domain=x sidecar", "proxy --domain=x sidecar", ""),
            ("proxy --domain -x", "proxy --domain=-x", ""),
            ("proxy -z router", "proxy", "-z router"),
            ("proxy -zx a b router", "proxy router", "-z a -x b"),
            ("proxy -z=1 router", "proxy router", "-z=1"),
            ("proxy router sidecar", "proxy router", "sidecar"),
            ("proxy -- router", "proxy router", ""),
            ("proxy --profiling sidecar", "proxy --profiling sidecar", ""),
            (
                "proxy --profiling=false sidecar",
                "proxy --profiling=false sidecar",
                "",
            ),
            (
                "proxy --log_as_json router",
                "proxy --log_as_json router",
                "",
            ),
            ("proxy --vklog 9 router", "proxy --vklog=9 router", ""),
            ("--foo bar proxy router", "proxy router", "--foo bar"),
            ("--foo=bar proxy router", "proxy router", "--foo=bar"),
            (
                "--log_output_level x:info proxy",
                "proxy --log_output_level=x:info",
                "",
            ),
            ("--domain x proxy", "proxy --domain=x", ""),
            ("--foo --bar", "", "--foo --bar"),
            ("-h", "-h", ""),
            ("proxy -h", "proxy -h", ""),
            // Elsewhere they do not pass.
            ("istio-iptables --foo", "istio-iptables --foo", ""),
            ("--foo=1 istio-iptables", "istio-iptables --foo=1", ""),
            ("nosuch --foo", "nosuch --foo", ""),
        ] {
            let found = arranged(text);
            let found_words = found.words.iter().map(|word| word.to_string_lossy());
            assert_eq!(found_words.collect::<Vec<_>>().join(" "), words, "{text}");
            assert_eq!(found.ignored.join(" "), ignored, "{text}");
        }
    }

    #[test]
    fn the_arguments_of_istios_template_start_the_proxy() {
        let template = "proxy sidecar --domain $(POD_NAMESPACE).svc.cluster.local --proxyLogLevel=warning \
                        --proxyComponentLogLevel=misc:error --log_output_level=default:info --stsPort 15463 \
                        --outlierLogPath /dev/stdout --log_as_json --discoveryAddress istiod:15012 \
                        --controlPlaneAuthPolicy NONE --statusPort=15020";
        let words = arranged(template);
        let ignored =
            "--discoveryAddress istiod:15012 --controlPlaneAuthPolicy NONE --statusPort=15020";
        assert_eq!(words.ignored.join(" "), ignored);
        let program = OsString::from("pilot-agent");
        Cli::command()
            .try_get_matches_from(std::iter::once(program).chain(words.words))
            .unwrap();
    }

    proptest! {
        #[test]
        fn no_word_is_lost(words in prop::collection::vec("(--?)?(proxy|[a-z=]{0,3})", 0..8)) {
            let text = words.join(" ");
            let found = arranged(&format!("proxy {text}"));
            // A value may have joined its flag, letters may have parted: none comes twice.
            prop_assert!(found.words.len() + found.ignored.len() <= 1 + text.len());
            prop_assert_eq!(found.words.first().unwrap(), "proxy");
        }
    }
}
