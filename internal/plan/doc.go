// Package plan defines the plan: a pipeline file compiled for one event, and the only thing that Slipway runs.
//
// A [Plan] is a graph of jobs, a [Job] is a graph of steps that share one sandbox, a [Step] is one container or one
// built-in action. Plans are plain structs with a stable JSON form, described in docs/plan.md: equal plans have equal
// bytes. Nothing in a plan belongs to one dialect or one engine. What is known only when a step starts, secrets and
// facts, stands in a plan as a [Value] that names it.
//
// Start with [Plan]; [Plan.Validate] says what holds of every plan that a dialect returns.
package plan
