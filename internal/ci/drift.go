package ci

import (
	"strings"
	"time"
)

// Drift is how an environment in a cluster differs from the release that serves there.
type Drift struct {
	// Cluster names the cluster; it is empty for the one that the server's own runner deploys to.
	Cluster string `json:"cluster,omitempty"`
	// Environment, Namespace and Repo name the place as those of a release do.
	Environment string `json:"environment"`
	Namespace   string `json:"namespace"`
	Repo        string `json:"repo,omitempty"`
	// Release is the number of the release that was compared with the cluster, Checked when that was.
	Release int64     `json:"release,omitempty"`
	Checked time.Time `json:"checked,omitzero"`
	// Objects are those that differ, with the values of Secrets masked. None means that all is as it was deployed.
	Objects []DriftedObject `json:"objects,omitempty"`
	// More is how many objects differ beside those.
	More int `json:"more,omitempty"`
	// Since is when a difference was found first, of those that there have been without a pause.
	Since time.Time `json:"since,omitzero"`
	// Unknown says in a sentence why it is not known how the environment is now; the rest is of the time Checked then.
	Unknown string `json:"unknown,omitempty"`
	// Heal is true if differences shall be put back, and Healed are the newest times when that was done.
	Heal   bool      `json:"heal,omitempty"`
	Healed []Healing `json:"healed,omitempty"`
	// Fight says in a sentence why differences are not put back any more, although they shall be.
	Fight string `json:"fight,omitempty"`
}

// Drifted reports whether the environment is known to differ.
func (d Drift) Drifted() bool { return len(d.Objects) > 0 }

// DriftedObject is an object that is not as it was deployed.
type DriftedObject struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	// Missing is true if the object is not in the cluster. Otherwise Fields differ, or Problem says what is wrong. The old
	// value of a field is that in the cluster, the new one that of the release.
	Missing bool    `json:"missing,omitempty"`
	Fields  []Field `json:"fields,omitempty"`
	// Problem is why the object cannot be compared or put back, in a sentence; mostly empty.
	Problem string `json:"problem,omitempty"`
	// By are those who set the fields that differ, the latest first, as far as the cluster knows.
	By []Author `json:"by,omitempty"`
}

// Author is who set fields of an object.
type Author struct {
	// Manager is the name by which a program told the cluster who it is, such as kubectl-edit.
	Manager string    `json:"manager"`
	At      time.Time `json:"at,omitzero"`
}

// Title names the object for people: kind/name.
func (o DriftedObject) Title() string { return strings.ToLower(o.Kind) + "/" + o.Name }

// Healing is that differences were put back, or that it was tried.
type Healing struct {
	At time.Time `json:"at"`
	// Objects names what was put back: kind/name and the paths of its fields.
	Objects []string `json:"objects"`
	// Error says in a sentence why that did not succeed.
	Error string `json:"error,omitempty"`
}

// Outline returns d without what only those may see who may change the repo: values may be secret that no Secret holds.
func (d Drift) Outline() Drift {
	objects := make([]DriftedObject, len(d.Objects))
	for i, o := range d.Objects {
		o.Fields, o.Problem = nil, ""
		objects[i] = o
	}
	d.Objects = objects
	if len(objects) == 0 {
		d.Objects = nil
	}
	return d
}
