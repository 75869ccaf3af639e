# Baseline: for the platform. Everybody may use every model, within bounds that an honest request does not reach.
package tollgate.admission

limits := data.tollgate.baseline

default allow := false

allow if input.request.surface in limits.surfaces

deny contains sprintf("at most %d answers at once", [limits.choices_max]) if {
	input.request.choices > limits.choices_max
}

deny contains sprintf("at most %d images in one request", [limits.images_max]) if {
	input.request.images > limits.images_max
}

deny contains sprintf("at most %d bytes of text in one request", [limits.input_bytes_max]) if {
	input.request.input_bytes > limits.input_bytes_max
}

obligations := {"retention_days": 30}
