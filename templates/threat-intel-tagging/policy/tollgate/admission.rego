# Threat intelligence: sentences of reports may only be tagged here, never in a batch with those of other tenants, and are soon
# forgotten.
package tollgate.admission

default allow := false

allow if input.request.surface == "runs"

deny contains "this template is for runs only" if {
	not input.request.surface == "runs"
}

deny contains "at most 200000 bytes of text in one run" if {
	input.request.input_bytes > 200000
}

obligations := {
	"batch": "alone",
	"cache": {"ttl_seconds": 600},
	"retention_days": 7,
}
