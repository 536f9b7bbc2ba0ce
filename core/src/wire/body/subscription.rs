//! What a group wants of a topic.

use std::collections::BTreeSet;

use serde::{Deserialize, Deserializer, Serialize, Serializer, ser::SerializeStruct};

use super::dialect::{self, null_as_default};
use crate::{error::Rejected, message::tag_hash, wire::code};

/// One topic of a group's subscription.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Subscription {
    pub topic: String,
    /// `*`, or tags joined by `||`.
    #[serde(rename = "subString", default, deserialize_with = "null_as_default")]
    pub expression: String,
    /// Grows when the member changes its expression; milliseconds by custom.
    #[serde(rename = "subVersion", default, deserialize_with = "dialect::number")]
    pub version: i64,
    /// `TAG` where the client says nothing.
    #[serde(default = "tag", deserialize_with = "tag_by_default")]
    pub expression_type: String,
}

fn tag() -> String {
    "TAG".to_owned()
}

fn tag_by_default<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let kind = Option::<String>::deserialize(deserializer)?;
    Ok(kind.filter(|kind| !kind.is_empty()).unwrap_or_else(tag))
}

impl Subscription {
    /// A subscription to tags: `*`, or tags joined by `||`.
    pub fn tags(topic: &str, expression: &str, version: i64) -> Subscription {
        Subscription {
            topic: topic.to_owned(),
            expression: expression.to_owned(),
            version,
            expression_type: tag(),
        }
    }

    pub fn filter(&self) -> Result<TagFilter, Rejected> {
        TagFilter::parse(&self.expression, Some(&self.expression_type))
    }
}

impl Serialize for Subscription {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let filter = self.filter().unwrap_or_default();
        let mut out = serializer.serialize_struct("Subscription", 7)?;
        out.serialize_field("classFilterMode", &false)?;
        out.serialize_field("codeSet", &filter.hashes)?;
        out.serialize_field("expressionType", &self.expression_type)?;
        out.serialize_field("subString", &self.expression)?;
        out.serialize_field("subVersion", &self.version)?;
        out.serialize_field("tagsSet", &filter.tags)?;
        out.serialize_field("topic", &self.topic)?;
        out.end()
    }
}

/// A parsed tag expression. The broker filters by hash, from its index alone;
/// the client filters by value again, because hashes collide.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TagFilter {
    /// Empty: every message.
    tags: BTreeSet<String>,
    hashes: BTreeSet<i64>,
}

impl TagFilter {
    /// Every message, tagged or not.
    pub fn all() -> TagFilter {
        TagFilter::default()
    }

    /// Parses `*`, nothing (the same), or tags joined by `||`. Refuses an
    /// expression that names no tag, and kinds other than `TAG`.
    pub fn parse(expression: &str, kind: Option<&str>) -> Result<TagFilter, Rejected> {
        let refused = |why: String| Rejected::new(code::SUBSCRIPTION_PARSE_FAILED, why);
        if let Some(kind) = kind.filter(|kind| !kind.is_empty() && *kind != "TAG") {
            return Err(refused(format!("expression type {kind:.20} is not supported")));
        }
        let expression = expression.trim();
        if expression.is_empty() || expression == "*" {
            return Ok(TagFilter::all());
        }
        let tags: BTreeSet<String> = expression
            .split("||")
            .map(str::trim)
            .filter(|tag| !tag.is_empty())
            .map(str::to_owned)
            .collect();
        if tags.is_empty() {
            return Err(refused(format!("the expression {expression:.60?} names no tag")));
        }
        let hashes = tags.iter().map(|tag| tag_hash(tag)).collect();
        Ok(TagFilter { tags, hashes })
    }

    pub fn is_all(&self) -> bool {
        self.tags.is_empty()
    }

    /// Whether a message whose tag has this hash may match. Messages without a
    /// tag are indexed with 0.
    pub fn matches_hash(&self, hash: i64) -> bool {
        self.is_all() || self.hashes.contains(&hash)
    }

    pub fn matches_tag(&self, tag: Option<&str>) -> bool {
        self.is_all() || tag.is_some_and(|tag| self.tags.contains(tag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_alternatives() {
        let filter = TagFilter::parse(" red ||blue|| ", Some("TAG")).unwrap();
        assert!(filter.matches_tag(Some("red")) && filter.matches_tag(Some("blue")));
        assert!(!filter.matches_tag(Some("green")) && !filter.matches_tag(None));
        assert!(filter.matches_hash(tag_hash("blue")) && !filter.matches_hash(0));
    }

    #[test]
    fn a_star_or_nothing_takes_messages_without_a_tag_too() {
        for expression in ["*", "", "  "] {
            let filter = TagFilter::parse(expression, None).unwrap();
            assert!(filter.matches_tag(None) && filter.matches_hash(0) && filter.matches_hash(5));
        }
    }

    #[test]
    fn colliding_tags_are_told_apart_by_value() {
        assert_eq!(tag_hash("Aa"), tag_hash("BB"));
        let filter = TagFilter::parse("Aa", None).unwrap();
        assert!(filter.matches_hash(tag_hash("BB")) && !filter.matches_tag(Some("BB")));
    }

    #[test]
    fn what_cannot_be_honoured_is_refused() {
        for (expression, kind) in [("||", None), ("a > 5", Some("SQL92"))] {
            let error = TagFilter::parse(expression, kind).unwrap_err();
            assert_eq!(error.code, code::SUBSCRIPTION_PARSE_FAILED);
        }
    }
}
