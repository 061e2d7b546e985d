// What makes the console's pages nicer where scripts run. Without them everything works too.
"use strict";

const refreshEvery = 5000;

// refresh replaces the part of the page that shows what the sidecar says. It waits while the page is hidden.
async function refresh(live) {
	if (document.hidden) return;
	let response;
	try {
		response = await fetch(live.dataset.refresh);
	} catch {
		say("The console has ended. Start the command again, and open its new URL.");
		return;
	}
	const page = new DOMParser().parseFromString(await response.text(), "text/html");
	const fresh = page.getElementById("live");
	if (!fresh) {
		say(page.querySelector("h1")?.textContent ?? "The page cannot be refreshed.");
		return;
	}
	say("");
	if (live.contains(document.activeElement) && document.activeElement !== live) {
		const place = placeOf(live, document.activeElement);
		live.replaceChildren(...fresh.childNodes);
		live.querySelectorAll("a, button, [tabindex]")[place]?.focus({ preventScroll: true });
		return;
	}
	live.replaceChildren(...fresh.childNodes);
}

function placeOf(live, element) {
	return [...live.querySelectorAll("a, button, [tabindex]")].indexOf(element);
}

// say shows a line above the part that is refreshed; an empty one removes it.
function say(text) {
	let line = document.getElementById("said");
	if (!line) {
		if (!text) return;
		line = document.createElement("p");
		line.id = "said";
		line.className = "notice notice-warn";
		line.setAttribute("role", "status");
		document.getElementById("live").before(line);
	}
	line.hidden = !text;
	if (line.textContent !== text) line.textContent = text;
}

const live = document.querySelector("#live[data-refresh]");
if (live) {
	setInterval(() => refresh(live), refreshEvery);
	document.addEventListener("visibilitychange", () => refresh(live));
}

// A result is read out, and is where the keyboard goes on.
document.querySelector("[data-focus]")?.focus();

// A button whose request takes long says so, and is not pressed twice.
document.addEventListener("submit", (event) => {
	const button = event.submitter;
	if (!button?.dataset.busy) return;
	if (button.getAttribute("aria-disabled") === "true") {
		event.preventDefault();
		return;
	}
	button.setAttribute("aria-disabled", "true");
	button.textContent = button.dataset.busy;
});
