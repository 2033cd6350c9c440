//! The views of what clients send, and the frames that are made of them: total, and a rewritten frame is read as
//! what was meant.

use stagedoor::wire::frame::Frame;
use stagedoor::wire::frontend::Target;
use stagedoor::wire::frontend::bind;
use stagedoor::wire::frontend::parse;
use stagedoor::wire::frontend::query;
use stagedoor::wire::frontend::rewrite_bind;
use stagedoor::wire::frontend::target;
use stagedoor::wire::message::push_frame;
use stagedoor::wire::message::push_head;

/// The input is the body of a frame of any kind.
pub(super) fn frontend(body: &[u8]) {
    views_are_parts(body);
    frames_can_be_read(body);
    values(body);
}

fn views_are_parts(body: &[u8]) {
    if let Some((name, text)) = parse(body) {
        assert!(body.starts_with(&[name, b"\0", text].concat()));
        assert!(!text.contains(&0) && !name.contains(&0));
    }
    if let Some((portal, statement, rest)) = bind(body) {
        assert_eq!(body, [portal, b"\0", statement, b"\0", rest].concat());
    }
    match target(body) {
        Some(Target::Statement(name)) => assert!(body.starts_with(&[b"S", name, b"\0"].concat())),
        Some(Target::Portal(name)) => assert!(body.starts_with(&[b"P", name, b"\0"].concat())),
        None => {}
    }
    assert!(body.starts_with(query(body)) && !query(body).contains(&0));
}

fn frames_can_be_read(body: &[u8]) {
    let mut whole = Vec::new();
    push_frame(&mut whole, b'B', &[body]);
    let mut spliced = Vec::new();
    push_head(&mut spliced, b'B', body.len());
    spliced.extend_from_slice(body);
    assert_eq!(whole, spliced);
    assert_eq!(Frame::parse(&whole), Ok(Some((Frame { tag: b'B', body }, body.len() + 5))));
}

/// Real process ids are half of the virtual ones here.
fn values(body: &[u8]) {
    let mut asked = 0;
    let untouched = rewrite_bind(body, &mut |_| {
        asked += 1;
        None
    });
    assert_eq!(untouched, None, "nothing is translated, so nothing changes");
    let Some(rewritten) = rewrite_bind(body, &mut |pid| Some(pid / 2)) else { return };
    assert_ne!(asked, 0);
    let (Some(before), Some(after)) = (values_of(body), values_of(&rewritten)) else {
        panic!("a body that can be rewritten can be read, before and after");
    };
    assert_eq!((&after.head, &after.tail), (&before.head, &before.tail));
    assert_eq!(after.values.len(), before.values.len());
    for (before, after) in before.values.iter().zip(&after.values) {
        let (Some(before), Some(after)) = (before, after) else {
            assert_eq!(before, after, "NULL stays NULL, and nothing else becomes it");
            continue;
        };
        let halves = match (before.len(), after.len()) {
            (4, 4) => {
                i32::from_be_bytes(before[..].try_into().expect("4")) / 2
                    == i32::from_be_bytes(after[..].try_into().expect("4"))
            }
            (8, 8) => {
                i64::from_be_bytes(before[..].try_into().expect("8")) / 2
                    == i64::from_be_bytes(after[..].try_into().expect("8"))
            }
            _ => false,
        };
        let number = |text: &[u8]| std::str::from_utf8(text).ok()?.trim().parse::<i64>().ok();
        let halved_text = number(before).is_some_and(|pid| number(after) == Some(pid / 2));
        assert!(before == after || halves || halved_text, "{before:?} became {after:?}");
    }
}

/// A Bind, read in the plainest way.
struct Values {
    /// Names and formats.
    head: Vec<u8>,
    values: Vec<Option<Vec<u8>>>,
    tail: Vec<u8>,
}

fn values_of(body: &[u8]) -> Option<Values> {
    let mut at = body.iter().position(|&byte| byte == 0)? + 1;
    at += body.get(at..)?.iter().position(|&byte| byte == 0)? + 1;
    let number = |at: usize| Some(usize::from(u16::from_be_bytes(body.get(at..at + 2)?.try_into().ok()?)));
    at += 2 + 2 * number(at)?;
    let count = number(at)?;
    let head = body.get(..at)?.to_vec();
    at += 2;
    let mut values = Vec::new();
    for _ in 0..count {
        let length = i32::from_be_bytes(body.get(at..at + 4)?.try_into().ok()?);
        at += 4;
        let Ok(length) = usize::try_from(length) else {
            values.push(None);
            continue;
        };
        values.push(Some(body.get(at..at.checked_add(length)?)?.to_vec()));
        at += length;
    }
    Some(Values { head, values, tail: body.get(at..)?.to_vec() })
}
