// Package runner claims jobs and walks their steps.
//
// [Runner.Run] is the whole life of a runner: it takes up the jobs that an earlier process left running, and then claims
// new ones. Each job is walked by one [walk], which starts steps on the engine as soon as what they need has ended. What
// happens is written to the job's [journal] first, a file, and sent to the server from there: so a server that is away
// costs nothing but time, and a runner that is killed finds in the journal how far it was.
//
// Start reading at runner.go, then walk.go.
package runner
