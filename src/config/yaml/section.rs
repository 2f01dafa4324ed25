//! Sections: structs whose fields are keys of a mapping, declared once.

use super::{Key, Kind, Node, Reader, Show};

/// A mapping with known keys. [`section!`](crate::section) writes the implementation.
pub trait Section: Default {
    /// What the section is called in messages.
    const NAME: &'static str;

    /// Sets the field that a key names; false when there is none.
    fn set_field(&mut self, key: &Key, value: &Node, reader: &mut Reader<'_>) -> bool;

    /// Rules of the section as a whole, also what a field left out means; runs once all fields are read without a
    /// problem.
    fn check(&mut self, node: &Node, reader: &mut Reader<'_>);

    /// The fields that say something, in order.
    fn show_fields(&self, show: Show, fields: &mut Vec<(Key, Node)>);
}

/// Reads a section strictly: keys it does not know are problems.
pub fn read_section<S: Section>(node: &Node, reader: &mut Reader<'_>) -> S {
    let mut section = S::default();
    let problems_before = reader.problem_count();
    for (key, value) in reader.entries(node, S::NAME) {
        if !section.set_field(key, value, reader) {
            reader.problem(key.at, format!("field {} not found in type {}", key.text, S::NAME));
        }
    }
    if reader.problem_count() == problems_before {
        section.check(node, reader);
    }
    section
}

/// The tree of a section.
pub fn show_section<S: Section>(section: &S, show: Show) -> Node {
    let mut fields = Vec::new();
    section.show_fields(show, &mut fields);
    Node::new(Kind::Map(fields))
}

/// Adds a field to the printed ones; one that says nothing and has no default of its own is left out.
pub fn show_field<T: super::Yaml>(name: &str, value: &T, always: bool, show: Show, fields: &mut Vec<(Key, Node)>) {
    if always || !value.is_zero() {
        fields.push((super::read::key(name.trim_start_matches("r#")), value.show(show)));
    }
}

/// Declares a section: a struct, its defaults, how it is read from and printed as YAML.
///
/// ```
/// promesh_config::section! {
///     /// Who may come in.
///     pub struct Door "door" => check_door {
///         /// How many, default 2.
///         pub seats: u32 = 2,
///         /// Where the list lies.
///         pub list_file: promesh_config::yaml::FilePath,
///     }
/// }
/// fn check_door(door: &mut Door, node: &promesh_config::yaml::Node, reader: &mut promesh_config::yaml::Reader<'_>) {
///     if door.seats == 0 {
///         reader.problem(node.at_key("seats"), "a door needs a seat");
///     }
/// }
/// ```
///
/// A field without a default has its type's `Default` and is printed only when it says something; `inline { … }` after
/// the fields takes sections whose fields stand among this one's. A section may stand in lists (`null` there is a
/// problem), in options and in other sections.
///
/// Under the feature `audit` every field is deprecated: the compiler then names each place that reads one, by which
/// `tests/audit.rs` finds fields that nobody reads.
#[macro_export]
macro_rules! section {
    (
        $(#[$meta:meta])*
        pub struct $name:ident $title:literal $(=> $check:path)? {
            $( $(#[$field_meta:meta])* pub $field:ident : $type:ty $(= $default:expr)? ),* $(,)?
            $( ; inline { $( $(#[$inline_meta:meta])* pub $inline:ident : $inline_type:ty ),* $(,)? } )?
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $( $(#[$field_meta])* #[cfg_attr(feature = "audit", deprecated)] pub $field: $type, )*
            $( $( $(#[$inline_meta])* #[cfg_attr(feature = "audit", deprecated)] pub $inline: $inline_type, )* )?
        }

        impl Default for $name {
            fn default() -> Self {
                $name {
                    $( $field: $crate::section!(@default $($default)?), )*
                    $( $( $inline: <$inline_type>::default(), )* )?
                }
            }
        }

        impl $crate::yaml::Section for $name {
            const NAME: &'static str = $title;

            #[allow(unused_variables)]
            fn set_field(
                &mut self,
                key: &$crate::yaml::Key,
                value: &$crate::yaml::Node,
                reader: &mut $crate::yaml::Reader<'_>,
            ) -> bool {
                $(
                    if key.text == stringify!($field).trim_start_matches("r#") {
                        $crate::section!(@set self.$field, $type, value, reader $(, $default)?);
                        return true;
                    }
                )*
                $( $( if $crate::yaml::Section::set_field(&mut self.$inline, key, value, reader) { return true; } )* )?
                false
            }

            #[allow(unused_variables)]
            fn check(&mut self, node: &$crate::yaml::Node, reader: &mut $crate::yaml::Reader<'_>) {
                $( $( $crate::yaml::Section::check(&mut self.$inline, node, reader); )* )?
                $( $check(self, node, reader); )?
            }

            #[allow(unused_variables)]
            fn show_fields(
                &self,
                show: $crate::yaml::Show,
                fields: &mut Vec<($crate::yaml::Key, $crate::yaml::Node)>,
            ) {
                $(
                    let always = $crate::section!(@always $($default)?);
                    $crate::yaml::show_field(stringify!($field), &self.$field, always, show, fields);
                )*
                $( $( $crate::yaml::Section::show_fields(&self.$inline, show, fields); )* )?
            }
        }

        impl $crate::yaml::Yaml for $name {
            fn read(node: &$crate::yaml::Node, reader: &mut $crate::yaml::Reader<'_>) -> Self {
                $crate::yaml::read_section(node, reader)
            }
            fn show(&self, show: $crate::yaml::Show) -> $crate::yaml::Node {
                $crate::yaml::show_section(self, show)
            }
            fn is_zero(&self) -> bool {
                *self == Self::default()
            }
            fn null_element() -> Option<String> {
                Some(format!("empty or null {} section", $title))
            }
        }
    };
    (@default) => { Default::default() };
    (@default $default:expr) => { $default };
    (@always) => { false };
    (@always $default:expr) => { true };
    (@set $place:expr, $type:ty, $value:ident, $reader:ident) => {
        $place = <$type as $crate::yaml::Yaml>::read($value, $reader)
    };
    // A key with nothing after it keeps the default, as in Go.
    (@set $place:expr, $type:ty, $value:ident, $reader:ident, $default:expr) => {
        if !$value.is_null() {
            $place = <$type as $crate::yaml::Yaml>::read($value, $reader)
        }
    };
}
