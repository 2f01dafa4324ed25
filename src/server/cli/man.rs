//! `promesh man`: the manual page, made of what `--help` knows.

use clap::Command;

/// The page in troff.
pub(super) fn page(command: &Command) -> String {
    let mut out = String::from(".TH PROMESH 1\n.SH NAME\n");
    let about = |command: &Command| command.get_about().map(ToString::to_string).unwrap_or_default();
    out.push_str(&format!("{} \\- {}\n", command.get_name(), text(&about(command))));
    out.push_str(".SH SYNOPSIS\n.B promesh\n[\\fIflags\\fR]\n.br\n.B promesh\n\\fIcommand\\fR [\\fIarguments\\fR]\n");
    out.push_str(".SH FLAGS\n");
    arguments(command, &mut out);
    out.push_str(".SH COMMANDS\n");
    for child in command.get_subcommands() {
        describe(child, "promesh", &mut out);
    }
    out
}

fn describe(command: &Command, path: &str, out: &mut String) {
    let name = format!("{path} {}", command.get_name());
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    out.push_str(&format!(".SS {}\n{}\n", text(&name), text(&about)));
    arguments(command, out);
    for child in command.get_subcommands() {
        describe(child, &name, out);
    }
}

fn arguments(command: &Command, out: &mut String) {
    for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
        let value = argument.get_value_names().and_then(|names| names.first()).map(ToString::to_string);
        let head = match (argument.get_long(), value) {
            (Some(long), Some(value)) => format!("\\fB\\-\\-{}\\fR=\\fI{}\\fR", text(long), text(&value)),
            (Some(long), None) => format!("\\fB\\-\\-{}\\fR", text(long)),
            (None, value) => format!("\\fI{}\\fR", text(&value.unwrap_or_else(|| argument.get_id().to_string()))),
        };
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        let default: Vec<String> =
            argument.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
        let default = if default.is_empty() { String::new() } else { format!(" Default: {}.", default.join(" ")) };
        out.push_str(&format!(".TP\n{head}\n{}\n", text(&format!("{help}{default}"))));
    }
}

/// Text that troff takes as it is.
fn text(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-");
    if escaped.starts_with(['.', '\'']) { format!("\\&{escaped}") } else { escaped }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_command_and_flag_is_in_the_page() {
        let page = super::page(&crate::cli::command());
        for wanted in ["\\-\\-web.listen\\-address", ".SS promesh tsdb create\\-blocks\\-from openmetrics", ".SH NAME"]
        {
            assert!(page.contains(wanted), "{wanted}");
        }
    }
}
