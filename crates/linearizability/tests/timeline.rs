//! The page that people look at.

use linearizability::{
    Budget, KeyValue, KeyValueInput, KeyValueOutput, KeyValueRequest, Recorder, check, timeline,
};

fn page(seen: &str) -> String {
    let mut clients = Recorder::default();
    let ask = |request| KeyValueInput {
        key: "k".to_owned(),
        request,
    };
    clients
        .invoke(4, ask(KeyValueRequest::Put("<b>&".to_owned())))
        .unwrap();
    clients.respond(4, KeyValueOutput::Done).unwrap();
    clients.invoke(5, ask(KeyValueRequest::Get)).unwrap();
    clients
        .respond(5, KeyValueOutput::Value(seen.to_owned()))
        .unwrap();
    let history = clients.finish();
    timeline(&history, &check(&KeyValue, &history, Budget::default()))
}

#[test]
fn a_witness_is_numbered_and_labels_are_escaped() {
    let page = page("<b>&");
    assert!(page.contains("<i>1</i>KeyValueInput") && page.contains("<i>2</i>"));
    assert!(page.contains("&lt;b&gt;&amp;") && !page.contains("<b>&"));
    assert!(!page.contains("src=") && !page.contains("<script"));
}

#[test]
fn answers_that_contradict_each_other_are_marked() {
    let page = page("x");
    assert_eq!(
        page.matches("class=\"o bad\"").count(),
        1,
        "no put was of this value"
    );
    assert!(page.contains(
        "Not linearizable: the 1 answers in red contradict each other, and no fewer do."
    ));
}
