package clustertest_test

import (
	"strings"
	"testing"

	"slipway/internal/cluster/clustertest"
)

const job = `
apiVersion: batch/v1
kind: Job
metadata: {name: hello}
spec:
  template:
    spec:
      restartPolicy: Never
      containers: [{name: hello, image: "slipway.test/clustertest:1", imagePullPolicy: Never}]
`

// TestStart uses everything that tests of other packages use.
func TestStart(t *testing.T) {
	c := clustertest.Start(t)
	c.Import("slipway.test/clustertest:1", clustertest.Program(t, `package main; func main() { println("hello") }`))
	c.Apply(job)
	c.Kubectl("wait", "--for=condition=Complete", "--timeout=60s", "job/hello")
	if got := c.Kubectl("logs", "job/hello"); got != "hello\n" {
		t.Errorf("the job logged %q", got)
	}
	var other string
	t.Run("Another test has another namespace", func(t *testing.T) {
		other = clustertest.Start(t).Namespace
		if other == c.Namespace {
			t.Errorf("both have %s", other)
		}
	})
	if got := c.Kubectl("get", "namespace", other, "--ignore-not-found", "-o", "jsonpath={.status.phase}"); got != "" && got != "Terminating" {
		t.Errorf("the namespace of a finished test is %s", got)
	}
	if strings.Contains(c.Kubectl("get", "pods", "--namespace", other), "Running") {
		t.Error("pods of a finished test run")
	}
}
