package console

import (
	"net/http"
	"strings"

	"github.com/caddy-httphelper/caddy-httphelper/internal/draft"
)

// savedView is the page of what was saved. Nothing can be filled in any more.
type savedView struct {
	Title, About          string
	ListURL, List         string
	NextURL, Next         string
	Result                *notice
	Import, Reload, Block string
	Secrets               []draft.Secret // still to be stored
}

// showSavedView says how Caddy uses the files that were saved in a directory.
func (p *pages) showSavedView(w http.ResponseWriter, r *http.Request, section, dir string, view savedView) {
	view.Import, _ = draft.ImportLine(dir)
	view.Reload = draft.ReloadCommand(p.options.File, p.options.Adapter)
	p.show(w, r, http.StatusOK, "saved", page{Section: section, Title: view.Result.Title, Data: view})
}

func (p *pages) showSavedConnector(w http.ResponseWriter, r *http.Request, d *draft.ConnectorDraft, file string) {
	view := savedView{
		Title: "New connector", About: d.Name, ListURL: base(r) + "/connectors", List: "Connectors", NextURL: base(r) + "/new-connector", Next: "Another connector",
		Result: &notice{Tone: toneGood, Title: "The connector is saved", Lines: []string{"Written:", file}},
	}
	view.Block, _ = d.Block()
	if strings.Contains(view.Block, secretOfConnector) {
		view.Result.Tone = toneWarn
		view.Result.Lines = append(view.Result.Lines, "The file says “"+secretOfConnector+"” where a secret of the connector belongs: write it there, and let nobody else read the file.")
	}
	p.showSavedView(w, r, "new-connector", draft.ConnectorDir(p.options.saveDir), view)
}
