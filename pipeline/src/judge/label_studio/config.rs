//! What raters see: the labelling configuration, a task's data, and the grade in an answer.

use ranking::judgments::{Choice, Grade, SCALE};
use serde_json::{Map, Value};

use crate::judge::{PairToRate, RatingTask};

/// The name of the control that takes the grade.
const CONTROL: &str = "grade";

/// Which of the optional columns the pairs have: what one task shows, all show.
#[derive(Clone, Copy)]
pub(super) struct Shown {
    title: bool,
    text: bool,
}

impl Shown {
    pub fn of(pairs: &[PairToRate]) -> Self {
        Self {
            title: pairs.iter().any(|pair| pair.title.is_some()),
            text: pairs.iter().any(|pair| pair.text.is_some()),
        }
    }

    /// The project's labelling configuration: query and document above five choices, a grade each.
    pub fn labelling(self) -> String {
        let mut xml = String::from("<View>\n  <Header value=\"Query\"/>\n  <Text name=\"query\" value=\"$query\"/>\n");
        xml += "  <Header value=\"Document\"/>\n";
        if self.title {
            xml += "  <Text name=\"title\" value=\"$title\"/>\n";
        }
        xml += &format!("  <Text name=\"document\" value=\"${}\"/>\n", if self.text { "text" } else { "document_id" });
        xml += &format!(
            "  <Choices name=\"{CONTROL}\" toName=\"document\" choice=\"single-radio\" required=\"true\" \
             requiredMessage=\"Choose a grade, or skip the pair\">\n"
        );
        for choice in SCALE {
            xml += &format!("    <Choice value=\"{}\" alias=\"{}\"/>\n", escape(&spell(&choice)), choice.grade);
        }
        xml + "  </Choices>\n</View>\n"
    }

    /// A task's data.
    pub fn data(self, item: &PairToRate) -> Value {
        let mut data = Map::new();
        let mut set = |name: &str, value: &str| data.insert(name.into(), value.into());
        set("query_id", &item.pair.query_id);
        set("document_id", &item.pair.document_id);
        set("query", item.query.as_deref().unwrap_or(&item.pair.query_id));
        if self.title {
            set("title", item.title.as_deref().unwrap_or_default());
        }
        if self.text {
            set("text", item.text.as_deref().unwrap_or_default());
        }
        Value::Object(data)
    }
}

/// What is shown of a choice.
fn spell(choice: &Choice) -> String {
    format!("{}: {}", choice.label, choice.description)
}

/// The instructions, plain text until here, as the HTML that Label Studio shows.
pub(super) fn instructions(task: &RatingTask) -> String {
    let mut html = format!("<p>{}</p><ul>", escape(&task.instructions).replace('\n', "<br/>"));
    for choice in SCALE {
        html += &format!("<li>{} ({})</li>", escape(&spell(&choice)), choice.grade);
    }
    html + "</ul>"
}

/// What an annotation's `result` says.
#[derive(Debug, PartialEq)]
pub(super) enum Answer {
    Grade(Grade),
    /// Why there is none.
    Unreadable(String),
}

pub(super) fn answer(result: &Value) -> Answer {
    let regions = result.as_array().map(Vec::as_slice).unwrap_or_default();
    let mut grades = regions.iter().filter(|region| region["from_name"] == CONTROL);
    let Some(region) = grades.next() else { return Answer::Unreadable("it has no grade".into()) };
    match region["value"]["choices"].as_array().map(Vec::as_slice) {
        Some([Value::String(choice)]) if grades.next().is_none() => {
            let known = SCALE
                .iter()
                .find(|known| known.grade.to_string() == *choice || known.label == choice || spell(known) == *choice);
            known.map_or_else(
                || Answer::Unreadable(format!("`{choice}` is no grade")),
                |known| Answer::Grade(known.grade),
            )
        }
        _ => Answer::Unreadable("it has not one grade".into()),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use ranking::judgments::Pair;
    use serde_json::json;

    use super::*;

    fn item(title: Option<&str>) -> PairToRate {
        let pair = Pair { query_id: "q1".into(), document_id: "d1".into() };
        PairToRate { pair, query: None, title: title.map(str::to_owned), text: None }
    }

    #[test]
    fn all_tasks_have_what_one_of_them_shows_and_ids_stand_in_for_words() {
        let items = [item(Some("Shoes")), item(None)];
        let shown = Shown::of(&items);
        assert!(shown.labelling().contains("$title") && shown.labelling().contains("value=\"$document_id\""));
        assert_eq!(shown.data(&items[1]), json!({"query_id": "q1", "document_id": "d1", "query": "q1", "title": ""}));
        assert!(!Shown::of(&items[1..]).labelling().contains("$title"));
    }

    #[test]
    fn instructions_are_text_and_nothing_in_them_is_markup() {
        let task = RatingTask { title: "t".into(), instructions: "a < b\n& c".into(), raters: 3, pairs: Vec::new() };
        assert!(
            instructions(&task)
                .starts_with("<p>a &lt; b<br/>&amp; c</p><ul><li>Perfect: Exactly what user wants (4)</li>")
        );
    }

    #[test]
    fn a_grade_is_read_from_its_number_or_its_words_and_nothing_else() {
        let said = |choices: Value| answer(&json!([{"from_name": "grade", "value": {"choices": choices}}]));
        let grade = |value| Answer::Grade(Grade::new(value).unwrap());
        assert_eq!(said(json!(["4"])), grade(4));
        assert_eq!(said(json!(["Bad"])), grade(0));
        assert_eq!(said(json!(["Good: Relevant but not ideal"])), grade(2));
        assert_eq!(said(json!(["7"])), Answer::Unreadable("`7` is no grade".into()));
        assert_eq!(said(json!(["4", "3"])), Answer::Unreadable("it has not one grade".into()));
        assert_eq!(answer(&json!([])), Answer::Unreadable("it has no grade".into()));
    }
}
