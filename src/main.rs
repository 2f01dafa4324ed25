//! promesh: flags, tracing, run, exit code; nothing else.

use std::process::ExitCode;

use promesh_server::cli::{Invocation, interpret};

fn main() -> ExitCode {
    match interpret(std::env::args_os()) {
        Invocation::Serve(options) => {
            promesh_server::logging::start(options.log);
            promesh_server::run(*options)
        }
        Invocation::Exit(code) => ExitCode::from(code),
    }
}
