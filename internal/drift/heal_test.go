package drift

import (
	"errors"
	"strings"
	"testing"
	"time"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/manifest"
	"slipway/internal/release"
	"slipway/internal/rollout"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// changed is a report of a release in which a field of a ConfigMap differs.
func changed(number int64, path string) rollout.DriftReport {
	object := release.Ref{Version: "v1", Kind: "ConfigMap", Namespace: "shop", Name: "settings"}.Object()
	return rollout.DriftReport{Release: ci.Release{Number: number}, Differences: rollout.Differences{{
		Object: manifest.Object{Unstructured: object}, Action: rollout.Update, Fields: []rollout.Field{{Path: path, Old: "x", New: "y"}},
		Authors: []ci.Author{{Manager: "kubectl-edit", At: noon}},
	}}}
}

func same(number int64) rollout.DriftReport {
	return rollout.DriftReport{Release: ci.Release{Number: number}}
}

// TestNext follows an environment that differs for a while.
func TestNext(t *testing.T) {
	d := Next(ci.Drift{Environment: "production"}, same(1), noon)
	if d.Drifted() || !d.Since.IsZero() || !d.Checked.Equal(noon) || d.Release != 1 {
		t.Errorf("at first it is %+v", d)
	}
	d = Next(d, changed(1, "data.a"), noon.Add(time.Minute))
	if !d.Drifted() || !d.Since.Equal(noon.Add(time.Minute)) || Heals(d) {
		t.Errorf("changed, it is %+v, and nobody wants it healed", d)
	}
	d = Next(d, rollout.DriftReport{Unknown: "the cluster is away"}, noon.Add(2*time.Minute))
	if !d.Drifted() || d.Unknown == "" || !d.Checked.Equal(noon.Add(time.Minute)) {
		t.Errorf("when the cluster is away, it is %+v", d)
	}
	d.Heal = true
	if Heals(d) {
		t.Error("what is not known is not healed")
	}
	d = Next(d, changed(1, "data.a"), noon.Add(3*time.Minute))
	if d.Unknown != "" || !d.Since.Equal(noon.Add(time.Minute)) || !Heals(d) {
		t.Errorf("still changed, it is %+v", d)
	}
	if d = Next(d, same(1), noon.Add(4*time.Minute)); d.Drifted() || !d.Since.IsZero() || Heals(d) {
		t.Errorf("as it was, it is %+v", d)
	}
}

// TestFight puts the same field back until that is seen to be in vain.
func TestFight(t *testing.T) {
	now := noon
	d := ci.Drift{Heal: true}
	number := int64(1)
	for range healTries {
		d = Next(d, changed(number, "data.a"), now)
		if !Heals(d) {
			t.Fatalf("it is not healed: %+v", d)
		}
		d = Healed(d, now)
		number++ // a healing is a release
		now = now.Add(time.Minute)
		d = Next(d, same(number), now)
	}
	d = Next(d, changed(number, "data.b"), now)
	if !Heals(d) {
		t.Errorf("another field is not healed: %+v", d)
	}
	d = Next(d, changed(number, "data.a"), now)
	if Heals(d) || !strings.Contains(d.Fight, "configmap/settings was put back 2 times within 30m, and kubectl-edit changes it again") {
		t.Errorf("the fight goes on: %+v", d)
	}
	if d = Next(d, changed(number, "data.a"), now.Add(time.Hour)); Heals(d) {
		t.Error("the fight goes on an hour later")
	}
	if again := Next(d, changed(number+1, "data.a"), now.Add(time.Hour)); !Heals(again) {
		t.Error("a new release ends the fight, and is not healed")
	}
	if again := Next(d, same(number), now.Add(time.Hour)); again.Fight != "" {
		t.Error("nothing differs any more, and it is a fight still")
	}
}

// TestSlowChange puts a field back that somebody changes every hour.
func TestSlowChange(t *testing.T) {
	d := ci.Drift{Heal: true}
	for i := range 5 {
		now := noon.Add(time.Duration(i) * time.Hour)
		if d = Next(d, changed(int64(i+1), "data.a"), now); !Heals(d) {
			t.Fatalf("the %d. change is not healed: %+v", i+1, d)
		}
		d = Healed(d, now)
		if len(d.Healed) != 1 {
			t.Errorf("healings of long ago are kept: %v", d.Healed)
		}
		d = Next(d, same(int64(i+2)), now.Add(time.Minute))
	}
}

// TestProblem leaves alone what cannot be put back.
func TestProblem(t *testing.T) {
	report := changed(1, "data.a")
	report.Differences[0].Err = fault.New(fault.Conflict, "configmap/settings belongs to the environment elsewhere")
	if d := Next(ci.Drift{Heal: true}, report, noon); Heals(d) || d.Fight != "" {
		t.Errorf("it is %+v", d)
	}
}

// What was not even tried does not count as a failure.
func TestUntried(t *testing.T) {
	before := ci.Drift{Healed: []ci.Healing{{Error: "no"}}, Objects: []ci.DriftedObject{{}}}
	noted := Healed(before, time.Unix(1, 0))
	if d := Untried(Unhealed(noted, errors.New("no runner"))); len(d.Healed) != 1 || d.Healed[0].Error != "no" || len(noted.Healed) != 2 {
		t.Errorf("noted are %+v", d.Healed)
	}
}
