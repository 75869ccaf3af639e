# Sandbox: for plans on trial. Small models, short questions, short answers.
package tollgate.admission

limits := data.tollgate.sandbox

default allow := false

allow if input.request.route in limits.models

deny contains concat("", ["the sandbox has the models ", concat(", ", limits.models)]) if {
	not input.request.route in limits.models
}

deny contains sprintf("the sandbox takes at most %d bytes of text", [limits.input_bytes_max]) if {
	input.request.input_bytes > limits.input_bytes_max
}

deny contains "the sandbox looks at no images" if input.request.images > 0

deny contains "the sandbox gives one answer at a time" if input.request.choices > 1

obligations := {
	"models": limits.models,
	"max_tokens": {"limit": limits.max_tokens, "over": "clamp"},
	"batch": "alone",
}
