//! A CEL expression over `event`, made safe to run on every event.
//!
//! The interpreter has no budget of its own and knows no types, so the expression is rewritten when it is
//! compiled: each `event.a.b` becomes a variable that holds that field (a field that does not exist is told
//! then, not per event); each turn of a comprehension takes from a budget; a regular expression must be a
//! literal and is compiled once. What remains is bounded by the expression's own length.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::Duration,
};

use cel::{
    Context, ExecutionError, IdedExpr, Value,
    common::ast::{CallExpr, Expr, LiteralValue, SelectExpr, operators},
    parser::Parser,
};
use prost_reflect::DynamicMessage;
use regex::{Regex, RegexBuilder};
use rustix::time::{ClockId, clock_gettime};

use super::fields::Ask;
use crate::schema;

/// Longest expression in characters.
pub(crate) const MAX_LENGTH: usize = 4096;
/// Deepest nesting.
const MAX_DEPTH: usize = 64;
/// Comprehensions in comprehensions.
const MAX_LOOPS: usize = 2;
/// `+`, which may build longer and longer strings.
const MAX_ADDITIONS: usize = 16;
/// What one event may cost: nodes of comprehensions' bodies that are evaluated.
const BUDGET: i64 = 20_000;
/// Processor time that one event may take, seen between turns of a comprehension.
const MAX_TIME: Duration = Duration::from_millis(50);
/// Of the budget, from one look at the time to the next.
const LOOK: i64 = 64;
/// Size of a compiled regular expression.
const MAX_REGEX_BYTES: usize = 1 << 20;
/// Stack for the parser, which is recursive: enough for [`MAX_LENGTH`] of any one bracket.
const STACK: usize = 256 << 20;

const STEP: &str = "@step";
const MATCHES: &str = "@matches";

/// Functions of CEL that expressions may call.
const FUNCTIONS: [&str; 26] = [
    "contains",
    "size",
    "max",
    "min",
    "startsWith",
    "endsWith",
    "string",
    "bytes",
    "double",
    "int",
    "uint",
    "duration",
    "timestamp",
    "getFullYear",
    "getMonth",
    "getDayOfYear",
    "getDayOfMonth",
    "getDate",
    "getDayOfWeek",
    "getHours",
    "getMinutes",
    "getSeconds",
    "getMilliseconds",
    "has",
    "matches",
    "all",
];

/// A compiled expression.
pub(crate) struct Expression {
    body: IdedExpr,
    asks: Vec<(String, Ask)>,
    functions: Context<'static>,
    meter: Arc<Meter>,
}

/// The expression failed on an event: its type was no bool, a key was missing, its cost was exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failed;

/// What the event at hand has left to spend.
#[derive(Debug)]
struct Meter {
    left: AtomicI64,
    /// Processor time of the thread, in nanoseconds, at which the time is up; 0 until it is first looked at.
    deadline: AtomicI64,
}

/// Walks through an expression, checks and rewrites it.
struct Rewriter<'s> {
    source: &'s str,
    asks: Vec<(String, Ask)>,
    regexes: Vec<Regex>,
    additions: usize,
    /// Variables of the comprehensions around.
    scope: Vec<String>,
    loops: usize,
}

// === impl Expression ===

impl Expression {
    /// Reads an expression. Blocking, and for at most milliseconds.
    ///
    /// # Errors
    /// `LINE:COLUMN: what is wrong`, columns in characters from 1.
    pub(crate) fn compile(source: &str) -> Result<Self, String> {
        let length = source.chars().count();
        if length > MAX_LENGTH {
            return Err(format!(
                "{length} characters: expected at most {MAX_LENGTH}"
            ));
        }
        let owned = source.to_owned();
        // A thread of its own, for its stack; and a panic of the parser ends only it.
        std::thread::Builder::new()
            .name("cel".into())
            .stack_size(STACK)
            .spawn(move || compile(&owned))
            .map_err(|error| format!("no thread to compile it on: {error}"))?
            .join()
            .unwrap_or_else(|_| Err("1:1: not understood".into()))
    }

    /// Whether it holds for an encoded, complete event.
    pub(crate) fn holds(&self, event: &[u8]) -> Result<bool, Failed> {
        let event = DynamicMessage::decode(schema::event().clone(), event).map_err(|_| Failed)?;
        let mut context = self.functions.new_inner_scope();
        for (name, ask) in &self.asks {
            context.add_variable_from_value(name.as_str(), ask.answer(&event));
        }
        self.meter.reset();
        // The interpreter is not ours: a panic in it is one more way for an expression to fail.
        let result = catch_unwind(AssertUnwindSafe(|| context.resolve(&self.body)));
        match result {
            Ok(Ok(Value::Bool(holds))) => Ok(holds),
            _ => Err(Failed),
        }
    }
}

impl std::fmt::Debug for Expression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Expression")
            .field("asks", &self.asks)
            .finish_non_exhaustive()
    }
}

fn compile(source: &str) -> Result<Expression, String> {
    let mut body = Parser::new()
        .max_recursion_depth(96)
        .parse(source)
        .map_err(|errors| match errors.errors.first() {
            Some(error) => format!(
                "{}:{}: {}",
                error.pos.0.max(1),
                // The parser counts columns from 0 in some messages.
                error.pos.1.max(1),
                error.msg.lines().next().unwrap_or("not understood")
            ),
            None => "1:1: not understood".to_owned(),
        })?;
    let mut rewriter = Rewriter {
        source,
        asks: Vec::new(),
        regexes: Vec::new(),
        additions: 0,
        scope: Vec::new(),
        loops: 0,
    };
    rewriter.rewrite(&mut body, 0)?;
    let Rewriter { asks, regexes, .. } = rewriter;
    let meter = Arc::new(Meter {
        left: AtomicI64::new(0),
        deadline: AtomicI64::new(0),
    });
    let mut functions = Context::default();
    let spend = meter.clone();
    functions.add_function(
        STEP,
        move |cost: i64, go_on: bool| -> Result<Value, ExecutionError> {
            spend.spend(cost)?;
            Ok(Value::Bool(go_on))
        },
    );
    functions.add_function(
        MATCHES,
        move |text: Arc<String>, regex: i64| -> Result<Value, ExecutionError> {
            usize::try_from(regex)
                .ok()
                .and_then(|regex| regexes.get(regex))
                .map(|regex| Value::Bool(regex.is_match(&text)))
                .ok_or_else(|| ExecutionError::function_error("matches", "no such expression"))
        },
    );
    Ok(Expression {
        body,
        asks,
        functions,
        meter,
    })
}

// === impl Meter ===

impl Meter {
    fn reset(&self) {
        self.left.store(BUDGET, Relaxed);
        self.deadline.store(0, Relaxed);
    }

    fn spend(&self, cost: i64) -> Result<(), ExecutionError> {
        let before = self.left.fetch_sub(cost, Relaxed);
        let left = before - cost;
        if left < 0 || (left / LOOK != before / LOOK && self.is_over_time()) {
            return Err(ExecutionError::function_error(STEP, "exceeds its cost"));
        }
        Ok(())
    }

    /// The time begins with the first look.
    fn is_over_time(&self) -> bool {
        let now = processor_time();
        let deadline = self.deadline.load(Relaxed);
        if deadline == 0 {
            let limit = MAX_TIME.as_nanos() as i64;
            self.deadline.store(now + limit, Relaxed);
        }
        deadline != 0 && now > deadline
    }
}

/// Of this thread, in nanoseconds: a machine that is busy with something else takes none from an expression.
fn processor_time() -> i64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

// === impl Rewriter ===

impl Rewriter<'_> {
    fn rewrite(&mut self, expression: &mut IdedExpr, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(format!("1:1: nested more than {MAX_DEPTH} deep"));
        }
        if let Expr::Select(_) = &expression.expr
            && let Some((names, test)) = self.event_path(expression)
        {
            return self.bind(expression, &names, test);
        }
        match &mut expression.expr {
            Expr::Unspecified => Err("1:1: not understood".into()),
            Expr::Struct(of) => Err(self.at(&of.type_name, "messages cannot be made here")),
            Expr::Literal(literal) => {
                // One integer type, so that `pid == 42` and `pid == 42u` are the same.
                if let LiteralValue::UInt(number) = literal {
                    *literal = LiteralValue::Int(number.inner().cast_signed().into());
                }
                Ok(())
            }
            Expr::Ident(name) if self.scope.contains(name) => Ok(()),
            Expr::Ident(name) if name == "event" => {
                Err(self.at(name, "event is a message: name one of its fields"))
            }
            Expr::Ident(name) => Err(self.at(
                name,
                &format!("nothing is called {name:?} here: expected event.FIELD"),
            )),
            Expr::Select(select) => self.rewrite(&mut select.operand, depth + 1),
            Expr::List(list) => {
                let elements = &mut list.elements;
                elements
                    .iter_mut()
                    .try_for_each(|one| self.rewrite(one, depth + 1))
            }
            Expr::Map(map) => map
                .entries
                .iter_mut()
                .try_for_each(|entry| match &mut entry.expr {
                    cel::common::ast::EntryExpr::MapEntry(entry) => {
                        self.rewrite(&mut entry.key, depth + 1)?;
                        self.rewrite(&mut entry.value, depth + 1)
                    }
                    cel::common::ast::EntryExpr::StructField(field) => {
                        Err(self.at(&field.field, "messages cannot be made here"))
                    }
                }),
            Expr::Call(call) => self.call(call, depth),
            Expr::Comprehension(comprehension) => {
                if comprehension.iter_var == "event" {
                    return Err(self.at("event", "a variable cannot be called event"));
                }
                self.rewrite(&mut comprehension.iter_range, depth + 1)?;
                self.rewrite(&mut comprehension.accu_init, depth + 1)?;
                self.loops += 1;
                if self.loops > MAX_LOOPS {
                    return Err(format!(
                        "1:1: more than {MAX_LOOPS} comprehensions in one another"
                    ));
                }
                let outside = self.scope.len();
                self.scope.push(comprehension.iter_var.clone());
                self.scope.push(comprehension.accu_var.clone());
                self.scope.extend(comprehension.iter_var2.clone());
                self.rewrite(&mut comprehension.loop_cond, depth + 1)?;
                self.rewrite(&mut comprehension.loop_step, depth + 1)?;
                self.rewrite(&mut comprehension.result, depth + 1)?;
                self.scope.truncate(outside);
                self.loops -= 1;
                let cost = nodes(&comprehension.loop_step) + nodes(&comprehension.loop_cond);
                let go_on = std::mem::take(&mut comprehension.loop_cond);
                comprehension.loop_cond = call(STEP, vec![integer(cost), go_on]);
                Ok(())
            }
        }
    }

    fn call(&mut self, call: &mut CallExpr, depth: usize) -> Result<(), String> {
        let operator = call.func_name.contains(['_', '@']);
        if !operator && !FUNCTIONS.contains(&call.func_name.as_str()) {
            let message = format!(
                "no function {:?}: expected one of {}",
                call.func_name,
                FUNCTIONS.join(", ")
            );
            return Err(self.at(&call.func_name, &message));
        }
        // Comprehensions add to their own result.
        let own = |one: &IdedExpr| matches!(&one.expr, Expr::Ident(name) if name.starts_with('@'));
        if call.func_name == operators::ADD && !call.args.iter().any(own) {
            self.additions += 1;
            if self.additions > MAX_ADDITIONS {
                return Err(format!("1:1: more than {MAX_ADDITIONS} additions"));
            }
        }
        if call.func_name == "matches" {
            let mut parts: Vec<IdedExpr> = call
                .target
                .take()
                .map(|target| *target)
                .into_iter()
                .chain(call.args.drain(..))
                .collect();
            let pattern = match parts.pop().map(|last| last.expr) {
                Some(Expr::Literal(LiteralValue::String(pattern))) if parts.len() == 1 => {
                    pattern.inner().to_owned()
                }
                _ => {
                    return Err(self.at(
                        "matches",
                        "expected TEXT.matches(\"PATTERN\") with the pattern written out",
                    ));
                }
            };
            let regex = RegexBuilder::new(&pattern)
                .size_limit(MAX_REGEX_BYTES)
                .build()
                .map_err(|error| {
                    let error = error.to_string();
                    let last = error.lines().last().unwrap_or_default();
                    self.at(&pattern, &format!("no regular expression: {last}"))
                })?;
            parts.push(integer(self.regexes.len() as i64));
            self.regexes.push(regex);
            call.func_name = MATCHES.into();
            call.args = parts;
        }
        if let Some(target) = &mut call.target {
            self.rewrite(target, depth + 1)?;
        }
        call.args
            .iter_mut()
            .try_for_each(|argument| self.rewrite(argument, depth + 1))
    }

    /// The names after `event` in `event.a.b`, and whether it stands in `has()`.
    fn event_path(&self, expression: &IdedExpr) -> Option<(Vec<String>, bool)> {
        let mut names = Vec::new();
        let mut test = false;
        let mut at = &expression.expr;
        loop {
            match at {
                Expr::Select(select) => {
                    test |= select.test;
                    names.push(select.field.clone());
                    at = &select.operand.expr;
                }
                Expr::Ident(name) if name == "event" => {
                    names.reverse();
                    return Some((names, test));
                }
                _ => return None,
            }
        }
    }

    /// Puts a variable in the place of `event.a.b`.
    fn bind(
        &mut self,
        expression: &mut IdedExpr,
        names: &[String],
        test: bool,
    ) -> Result<(), String> {
        let written = format!("event.{}", names.join("."));
        let (ask, used) = Ask::resolve(names, test).map_err(|error| self.at(&written, &error))?;
        if names.len() > used + 1 {
            return Err(self.at(&written, &format!("{:?} has no fields", names[used])));
        }
        // A variable's name that no expression can spell.
        let variable = format!(
            "{}event.{}",
            if test && names.len() == used {
                "has "
            } else {
                ""
            },
            names[..used].join(".")
        );
        if !self.asks.iter().any(|(name, _)| *name == variable) {
            self.asks.push((variable.clone(), ask));
        }
        let field = IdedExpr {
            id: expression.id,
            expr: Expr::Ident(variable),
        };
        *expression = match names.get(used) {
            None => field,
            Some(key) => IdedExpr {
                id: expression.id,
                expr: Expr::Select(SelectExpr {
                    operand: Box::new(field),
                    field: key.clone(),
                    test,
                }),
            },
        };
        Ok(())
    }

    /// A message with the place of what it is about, as far as the text shows it.
    fn at(&self, what: &str, message: &str) -> String {
        let before = self.source.find(what).map_or("", |at| &self.source[..at]);
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        format!("{line}:{column}: {message}")
    }
}

fn call(function: &str, args: Vec<IdedExpr>) -> IdedExpr {
    IdedExpr {
        id: 0,
        expr: Expr::Call(CallExpr {
            func_name: function.into(),
            target: None,
            args,
        }),
    }
}

fn integer(number: i64) -> IdedExpr {
    IdedExpr {
        id: 0,
        expr: Expr::Literal(LiteralValue::Int(number.into())),
    }
}

/// How much is evaluated at most, comprehensions within not counted in: they pay by themselves.
fn nodes(expression: &IdedExpr) -> i64 {
    1 + match &expression.expr {
        Expr::Select(select) => nodes(&select.operand),
        Expr::List(list) => list.elements.iter().map(nodes).sum(),
        Expr::Map(map) => 2 * map.entries.len() as i64,
        Expr::Call(call) => {
            call.target.iter().map(|target| nodes(target)).sum::<i64>()
                + call.args.iter().map(nodes).sum::<i64>()
        }
        Expr::Comprehension(comprehension) => nodes(&comprehension.iter_range),
        _ => 0,
    }
}

#[cfg(test)]
#[path = "expression_tests.rs"]
mod tests;
