//! Every plan, every subset of failing steps and every order of arrival, against a model that knows no order.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::error::UpstreamError;

/// One step as it is made up: what it needs, what its service does.
#[derive(Clone, Debug)]
struct Script {
    after: Vec<usize>,
    need: Wanted,
    /// The step that its request reads a value of; one of `after`.
    reads: Option<usize>,
    /// What its service answers.
    answer: Result<Answer, StepError>,
    /// Whether its answer has a place of its own.
    placed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Wanted {
    Required,
    Optional,
    Fallback,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Answer {
    /// Whether it has the value that others read.
    has_value: bool,
    /// Whether it has a member that others have as well.
    collides: bool,
}

const FALLBACK: Answer = Answer { has_value: true, collides: false };

impl Answer {
    /// The answer of the step at this position; `origin` tells services from fallbacks.
    fn value(self, position: usize, origin: &str) -> Value {
        let mut value = json!({ format!("of {position}"): { "from": origin } });
        if self.has_value {
            value["key"] = json!({ format!("{position}"): "text" });
        }
        if self.collides {
            value["same"] = json!(position);
        }
        value
    }
}

fn node(value: &Value) -> Node {
    json::parse(&value.to_string().into(), 16).expect("JSON")
}

fn path(path: &str) -> Path {
    path.parse().expect("a path")
}

fn plan(scripts: &[Script], collision: Collision) -> Plan {
    let step = |(position, script): (usize, &Script)| StepPlan {
        name: format!("step-{position}").into(),
        after: script.after.clone(),
        need: match script.need {
            Wanted::Required => Need::Required,
            Wanted::Optional => Need::Optional,
            Wanted::Fallback => Need::Fallback(node(&FALLBACK.value(position, "fallback"))),
        },
        values: vec![path(&format!("key.\"{position}\""))],
        reshape: Reshape::default(),
        at: script.placed.then(|| path(&format!("places.p{position}"))),
    };
    Plan { steps: scripts.iter().enumerate().map(step).collect(), collision, note: "_partial".into() }
}

/// Runs a plan; `order` says which of the calls under way ends next.
fn run(plan: &Plan, scripts: &[Script], order: &[usize]) -> Result<Composed, Refusal> {
    let mut run = Run::new(plan);
    let mut under_way = Vec::new();
    let mut order = order.iter().copied().cycle();
    loop {
        while let Some(step) = run.begin_next() {
            match scripts[step].reads.map_or(Ok(""), |earlier| run.value(earlier, 0)) {
                Ok(_) => under_way.push(step),
                Err(error) => run.end(step, Err(error))?,
            }
        }
        if under_way.is_empty() {
            return run.answer();
        }
        let ended = under_way.remove(order.next().expect("endless") % under_way.len());
        run.end(ended, scripts[ended].answer.map(|answer| node(&answer.value(ended, "service"))))?;
    }
}

/// What comes of a step, by definition.
fn outcome(scripts: &[Script], step: usize) -> Result<Answer, StepError> {
    if let Some(earlier) = scripts[step].reads {
        match outcome(scripts, earlier) {
            Ok(answer) if !answer.has_value => return Err(StepError::MissingValue),
            Err(_) if scripts[earlier].need != Wanted::Fallback => return Err(StepError::Dependency),
            _ => {}
        }
    }
    scripts[step].answer
}

/// What the whole must be: refusals that may be given, or the one document.
fn expected(scripts: &[Script], collision: Collision) -> Result<Value, Vec<Refusal>> {
    let fatal = |step: usize| match outcome(scripts, step) {
        Err(error) if scripts[step].need == Wanted::Required => Some(error),
        _ => None,
    };
    let waits_in_vain = |step: usize| {
        let mut behind = scripts[step].after.clone();
        while let Some(earlier) = behind.pop() {
            if fatal(earlier).is_some() {
                return true;
            }
            behind.extend(&scripts[earlier].after);
        }
        false
    };
    let refusals: Vec<Refusal> = (0..scripts.len())
        .filter(|step| !waits_in_vain(*step))
        .filter_map(|step| Some(Refusal::Step { step: format!("step-{step}").into(), error: fatal(step)? }))
        .collect();
    if refusals.is_empty() { document(scripts, collision) } else { Err(refusals) }
}

fn document(scripts: &[Script], collision: Collision) -> Result<Value, Vec<Refusal>> {
    let (mut whole, mut note, mut same) = (json!({}), Vec::new(), Vec::new());
    for (step, script) in scripts.iter().enumerate() {
        let (answer, origin) = match outcome(scripts, step) {
            Ok(answer) => (answer, "service"),
            Err(error) => {
                let mut entry = json!({ "step": format!("step-{step}"), "reason": error.reason() });
                if let StepError::Status(status) = error {
                    entry["status"] = json!(status);
                }
                if script.need == Wanted::Fallback {
                    entry["fallback"] = json!(true);
                }
                note.push(entry);
                if script.need != Wanted::Fallback {
                    continue;
                }
                (FALLBACK, "fallback")
            }
        };
        let value = answer.value(step, origin);
        if script.placed {
            whole["places"][format!("p{step}")] = value;
            continue;
        }
        for (name, member) in value.as_object().expect("an object") {
            match name.as_str() {
                "same" => same.push(member.clone()),
                "key" => whole["key"][step.to_string()] = json!("text"),
                _ => whole[name] = member.clone(),
            }
        }
    }
    match (same.as_slice(), collision) {
        ([], _) => {}
        ([only], _) => whole["same"] = only.clone(),
        ([first, ..], Collision::First) => whole["same"] = first.clone(),
        ([.., last], Collision::Last) => whole["same"] = last.clone(),
        (_, Collision::Refuse | Collision::Append) => return Err(vec![Refusal::Collision("same".into())]),
    }
    if !note.is_empty() {
        whole["_partial"] = note.into();
    }
    Ok(whole)
}

fn script(count: usize) -> impl Strategy<Value = Vec<Script>> {
    let failure = prop_oneof![
        Just(StepError::Status(503)),
        Just(StepError::Upstream(UpstreamError::Timeout)),
        Just(StepError::Upstream(UpstreamError::TooLarge)),
    ];
    let answer = (prop::bool::weighted(0.8), prop::bool::weighted(0.3))
        .prop_map(|(has_value, collides)| Answer { has_value, collides });
    let answer = prop_oneof![2 => answer.prop_map(Ok), 1 => failure.prop_map(Err)];
    let need =
        prop_oneof![1 => Just(Wanted::Required), 2 => Just(Wanted::Optional), 2 => Just(Wanted::Fallback)];
    let raw = (need, answer, any::<bool>(), any::<u8>(), any::<prop::sample::Index>(), any::<bool>());
    let ranks = Just((0..count).collect::<Vec<_>>()).prop_shuffle();
    (prop::collection::vec(raw, count), ranks).prop_map(|(raw, ranks)| {
        let steps = raw.into_iter().enumerate();
        steps
            .map(|(step, (need, answer, placed, links, read, reads))| {
                // A step may come after any that ranks before it, whatever the order of declaration.
                let linked = |earlier: &usize| ranks[*earlier] < ranks[step] && links >> earlier & 1 == 1;
                let after: Vec<usize> = (0..ranks.len()).filter(linked).collect();
                let reads = (reads && !after.is_empty()).then(|| *read.get(&after));
                Script { after, need, reads, answer, placed }
            })
            .collect()
    })
}

fn rule() -> impl Strategy<Value = Collision> {
    prop_oneof![
        Just(Collision::Refuse),
        Just(Collision::First),
        Just(Collision::Last),
        Just(Collision::Append)
    ]
}

fn check(scripts: &[Script], collision: Collision, orders: &[Vec<usize>]) {
    let plan = plan(scripts, collision);
    let expected = expected(scripts, collision);
    let mut written = None;
    for order in orders {
        match (run(&plan, scripts, order), &expected) {
            (Ok(composed), Ok(expected)) => {
                let bytes = json::write(&composed.document);
                assert_eq!(&serde_json::from_slice::<Value>(&bytes).expect("JSON"), expected);
                assert_eq!(composed.failed.is_empty(), expected.get("_partial").is_none());
                assert_eq!(*written.get_or_insert(bytes.clone()), bytes, "the order of arrival shows");
            }
            (Err(refusal), Err(refusals)) => {
                assert!(refusals.contains(&refusal), "{refusal:?}: {refusals:?}")
            }
            (outcome, expected) => panic!("{outcome:?} instead of {expected:?}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_answer_does_not_depend_on_the_order_of_arrival(
        scripts in (1..7_usize).prop_flat_map(script),
        collision in rule(),
        orders in prop::collection::vec(prop::collection::vec(0..720_usize, 7), 8),
    ) {
        check(&scripts, collision, &orders);
    }

    #[test]
    fn every_subset_of_failing_steps_has_its_answer(
        scripts in (1..6_usize).prop_flat_map(script),
        order in prop::collection::vec(0..720_usize, 7),
    ) {
        for subset in 0..1_u32 << scripts.len() {
            let mut scripts = scripts.clone();
            for (step, script) in scripts.iter_mut().enumerate() {
                let answer = Answer { has_value: step % 3 != 2, collides: false };
                script.answer = if subset >> step & 1 == 1 { Err(StepError::Status(500)) } else { Ok(answer) };
            }
            check(&scripts, Collision::Refuse, std::slice::from_ref(&order));
        }
    }
}

#[test]
fn leaves_keep_their_bytes_through_values_reshaping_and_merging() {
    let reshape = Reshape::new(&[path("balance")], &[], &[(path("balance"), "amount".into())]);
    let account = StepPlan {
        name: "account".into(),
        after: vec![],
        need: Need::Required,
        values: vec![path("currency"), path("owner")],
        reshape: reshape.expect("a reshaping"),
        at: Some(path("customer.account")),
    };
    let plan = Plan { steps: vec![account], collision: Collision::Refuse, note: "_partial".into() };
    let mut run = Run::new(&plan);
    assert_eq!(run.begin_next(), Some(0));
    assert_eq!(run.value(0, 0), Err(StepError::Dependency), "not before it has ended");
    let answer = br#"{"currency":"E\u0055R","balance":1234567890123456.780}"#;
    run.end(0, Ok(json::parse(&answer.as_slice().into(), 4).expect("JSON"))).expect("no refusal");
    assert_eq!(run.begin_next(), None);
    assert_eq!(run.value(0, 0), Ok("EUR"));
    assert_eq!(run.value(0, 1), Err(StepError::MissingValue));
    let composed = run.answer().expect("an answer");
    assert_eq!(
        json::write(&composed.document),
        r#"{"customer":{"account":{"amount":1234567890123456.780}}}"#
    );
}

#[test]
fn no_service_speaks_in_the_notes_place() {
    let scripts =
        [Script { after: vec![], need: Wanted::Optional, reads: None, answer: Ok(FALLBACK), placed: false }];
    for (answer, expected) in [
        (Ok(json!({"_partial": []})), Err(Refusal::Collision("_partial".into()))),
        (Ok(json!([1])), Ok(r#"{"_partial":[{"step":"step-0","reason":"not_object"}]}"#)),
        (
            Err(StepError::Status(503)),
            Ok(r#"{"_partial":[{"step":"step-0","reason":"status","status":503}]}"#),
        ),
    ] {
        let plan = plan(&scripts, Collision::Refuse);
        let mut run = Run::new(&plan);
        run.begin_next();
        run.end(0, answer.map(|value| node(&value))).expect("optional");
        let written = run.answer().map(|composed| json::write(&composed.document));
        assert_eq!(written, expected.map(Into::into));
    }
}
