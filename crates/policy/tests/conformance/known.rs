//! What is known of the cases that come with our engine, of its release 0.14.1: how many come out as they should, how many are
//! not run and why, and which do not, each with what keeps a bundle like it from deciding anything.

use super::machine::Held;

/// Cases that do not come out as they should, for the same reason.
pub struct Known {
    pub why: &'static str,
    pub hold: Hold,
    pub cases: &'static [&'static str],
}

/// As [`Held`], without a word for what nothing holds: that may not be.
pub enum Hold {
    /// With these words in the refusal.
    Refused(&'static str),
    Undecided,
}

/// Cases that come out as they should.
pub const AGREE: usize = 788;

/// Cases that are not run, by reason.
pub const NOT_RUN: &[(&str, usize)] = &[
    ("asks no expression", 7),
    ("asks of Azure's resources", 75),
    ("brings a clock of its own", 5),
    ("calls what is not built in, or a default alone", 92),
    ("has `with`", 12),
    ("has a table whose keys are written out, or in several brackets", 11),
    ("has words that are not OPA's", 2),
    ("skipped by its authors", 22),
    ("waits for its host", 48),
    ("walks", 1),
    ("wants errors of builtins, which are undefined unless one asks for them", 127),
    ("wants numbers that our reader of YAML rounds", 3),
];

pub const DIFFER: &[Known] = &[
    Known {
        why: "too few arguments, or too many. The machine says \"undefined\" of the call, and OPA refuses it as we do",
        hold: Hold::Refused("the number of arguments of "),
        cases: &[
            "interpreter/builtins/arrays/concat: concat-less-args",
            "interpreter/builtins/arrays/concat: concat-more-args",
            "interpreter/builtins/arrays/reverse: reverse-less-args",
            "interpreter/builtins/arrays/reverse: reverse-more-args",
            "interpreter/builtins/arrays/slice: less-args",
            "interpreter/builtins/arrays/slice: more-args",
            "interpreter/builtins/bitwise/and: bits.and.error.lessarg",
            "interpreter/builtins/bitwise/and: bits.and.error.morearg",
            "interpreter/builtins/bitwise/negate: bits.negate.error.morearg",
            "interpreter/builtins/bitwise/or: bits.or.error.lessarg",
            "interpreter/builtins/bitwise/or: bits.or.error.morearg",
            "interpreter/builtins/bitwise/xor: bits.xor.error.lessarg",
            "interpreter/builtins/bitwise/xor: bits.xor.error.morearg",
            "interpreter/builtins/numbers/abs: extra-args",
            "interpreter/builtins/numbers/ceil: extra-args",
            "interpreter/builtins/numbers/floor: extra-args",
            "interpreter/builtins/numbers/round: extra-args",
            "interpreter/builtins/semver/compare: semver extra arg",
            "interpreter/builtins/semver/is_valid: semver.is_valid extra arg",
        ],
    },
    Known {
        why: "the same of calls that no policy may have",
        hold: Hold::Refused("may not call"),
        cases: &[
            "interpreter/builtins/bitwise/lsh: bits.lsh.error.lessarg",
            "interpreter/builtins/bitwise/lsh: bits.lsh.error.morearg",
            "interpreter/builtins/bitwise/rsh: bits.rsh.error.lessarg",
            "interpreter/builtins/bitwise/rsh: bits.rsh.error.morearg",
            "interpreter/builtins/numbers/intn: extra-args",
            "interpreter/builtins/numbers/intn: less-args",
            "interpreter/builtins/numbers/range: less-args",
            "interpreter/builtins/numbers/range: more-args",
            "interpreter/builtins/units/parse: extra argument",
            "interpreter/builtins/units/parse: zero arguments",
            "interpreter/builtins/units/parse_bytes: extra argument",
            "interpreter/builtins/units/parse_bytes: zero arguments",
            "interpreter/default/basic: invalid-call",
            "interpreter/snippets/snippets: snippet6",
        ],
    },
    Known {
        why: "a default that has to be looked up. The machine takes it for undefined, and OPA refuses it as we do",
        hold: Hold::Refused("a default is written out"),
        cases: &[
            "interpreter/default/basic: invalid-arithexpr",
            "interpreter/default/basic: invalid-binexpr",
            "interpreter/default/basic: invalid-boolexpr",
            "interpreter/default/basic: invalid-refbrack",
            "interpreter/default/basic: invalid-refdot",
            "interpreter/default/basic: invalid-unaryexpr",
            "interpreter/default/basic: invalid-var",
            "interpreter/default/basic: invalid-var-in-object-key",
            "interpreter/default/basic: invalid-var-in-object-value",
            "interpreter/default/basic: invalid-var-in-set-aray",
        ],
    },
    Known {
        why: "a name in several parts. The machine takes the first part for all of it",
        hold: Hold::Refused("a rule is named by one name"),
        cases: &[
            "interpreter/data/tests: rule named data",
            "interpreter/rego.v1/tests: valid2",
            "interpreter/rego.v1/tests: valid22 (3)",
            "interpreter/rego.v1/tests: valid22 (4)",
            "interpreter/rego.v1/tests: valid3",
            "interpreter/rego.v1/tests: valid6",
            "interpreter/rego.v1/tests: valid6 (2)",
            "interpreter/rule/dependency: inter",
            "interpreter/rule/multiple_outputs: refhead_disjoint_subpaths_combine",
            "interpreter/rule/multiple_outputs: refhead_same_leaf_diff_value_conflict",
            "interpreter/rule/multiple_outputs: refhead_same_node_object_values_conflict_no_deep_merge",
            "interpreter/rule/old_set: special-case-field-syntax",
            "interpreter/rule/prefix: prefix after rules",
            "interpreter/rule/prefix: prefix between rules",
            "interpreter/snippets/snippets: snippet8",
        ],
    },
    Known {
        why: "two values for one name. The machine says \"undefined\", and OPA ends with an error",
        hold: Hold::Refused("defined more than once"),
        cases: &[
            "explained/calls_values_and_secrets: runtime_error_complete_conflict/both_definitions",
            "explained/rules: function_conflict/both_definitions",
            "explained/rules: multiple_definitions_same_value/different_values_conflict",
            "interpreter/call/or: or-all-error",
            "interpreter/call/or: or-error-output",
            "interpreter/rule/multiple_outputs: fn_nested_object_conflict_no_deep_merge",
            "interpreter/rule/multiple_outputs: fn_toplevel_disjoint_conflict",
        ],
    },
    Known {
        why: "`in` with a key, or within something else. The key is not looked at, and what is undefined is taken for false",
        hold: Hold::Refused("'in' stands by itself"),
        cases: &[
            "explained/negation_and_iteration: membership_value_undefined_collection/collection_missing",
            "interpreter/compr/array-vs-compr-tricky: case3-compr",
            "interpreter/compr/array-vs-compr-tricky: case6-compr",
        ],
    },
    Known {
        why: "a negation of what OPA looks up before",
        hold: Hold::Refused("may be missing"),
        cases: &["explained/negation_and_iteration: membership_negated_undefined_collection/collection_missing"],
    },
    Known {
        why: "data at the place of a rule: OPA refuses it as we do",
        hold: Hold::Refused("Rule-data conflict"),
        cases: &["interpreter/data/tests: overriding refs in data produces no error"],
    },
    Known {
        why: "all of data at once: our own rule is part of it",
        hold: Hold::Refused("Compile-time recursion"),
        cases: &["interpreter/data/tests: numbers are converted to string as needed when indexing data"],
    },
    Known {
        why: "a name within a rule that is called `data`, which Rego 1 refuses",
        hold: Hold::Refused("Direct access to 'data'"),
        cases: &["interpreter/rego.v1/tests: data-shadowed-by-local-var"],
    },
    Known {
        why: "arithmetic with what is no number. The machine says \"undefined\", as OPA does unless one asks for errors; the second engine ends with an error",
        hold: Hold::Undecided,
        cases: &[
            "interpreter/builtins/numbers/add: non-numeric",
            "interpreter/builtins/numbers/div: non-numeric",
            "interpreter/builtins/numbers/mod: float denom",
            "interpreter/builtins/numbers/mod: float numerator",
            "interpreter/builtins/numbers/mod: integral float too large to convert",
            "interpreter/builtins/numbers/mod: non-numeric",
            "interpreter/builtins/numbers/mul: non-numeric",
            "interpreter/builtins/numbers/sub: non-numeric",
            "interpreter/call/basic: call parameter raises error",
        ],
    },
    Known {
        why: "two values for one key. The machine keeps the last, and OPA ends with an error",
        hold: Hold::Undecided,
        cases: &[
            "explained/rules: partial_object_key_conflict/different_values",
            "interpreter/compr/object: different-values-for-same-key",
            "interpreter/rule/multiple_outputs: dynamic_partial_same_key_diff_value_conflict",
        ],
    },
    Known {
        why: "a default that is a comprehension. The machine takes it for undefined",
        hold: Hold::Undecided,
        cases: &[
            "interpreter/default/basic: valid-var-in-array-compr-output",
            "interpreter/default/basic: valid-var-in-array-compr-query",
            "interpreter/default/basic: valid-var-in-array-compr-query (2)",
            "interpreter/default/basic: valid-var-in-expr",
            "interpreter/default/basic: valid-var-in-not-expr",
            "interpreter/default/basic: valid-var-in-object-compr-key",
            "interpreter/default/basic: valid-var-in-object-compr-query",
            "interpreter/default/basic: valid-var-in-object-compr-value",
            "interpreter/default/basic: valid-var-in-set-compr-output",
        ],
    },
    Known {
        why: "a function's default. The machine does not know it",
        hold: Hold::Undecided,
        cases: &["interpreter/import/tests: default function value via import"],
    },
    Known {
        why: "a function without arguments, by an import. The machine does not find it",
        hold: Hold::Undecided,
        cases: &["interpreter/import/tests: import escaped literal namespace and project its zero argument function"],
    },
    Known {
        why: "`else` after a value that is undefined. The machine does not go on to it",
        hold: Hold::Undecided,
        cases: &["interpreter/rule/else: undefined values being assigned"],
    },
    Known {
        why: "`some` in what holds nothing. The machine says \"undefined\", as OPA does; the second engine ends with an error",
        hold: Hold::Undecided,
        cases: &[
            "interpreter/some/tests: invalid-bool",
            "interpreter/some/tests: invalid-null",
            "interpreter/some/tests: invalid-number",
            "interpreter/some/tests: invalid-string",
        ],
    },
    Known {
        why: "`every` with a look-up by its key. The machine finds any key good enough",
        hold: Hold::Undecided,
        cases: &[
            "explained/negation_and_iteration: every_without_default/exceeds_own_key_only",
            "explained/negation_and_iteration: every_without_default/one_exceeds",
            "explained/negation_and_iteration: every_without_default/unknown_key",
        ],
    },
    Known {
        why: "a name within a rule that is called `input`, which Rego 1 refuses",
        hold: Hold::Undecided,
        cases: &["interpreter/rego.v1/tests: input-shadowed-by-local-var"],
    },
];

// === impl Hold ===

impl Hold {
    pub fn is(&self, held: &Held) -> bool {
        match (self, held) {
            (Self::Refused(words), Held::Refused(why)) => why.contains(words),
            (Self::Undecided, Held::Undecided) => true,
            _ => false,
        }
    }
}
