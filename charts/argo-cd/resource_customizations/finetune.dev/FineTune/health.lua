-- Health of a FineTune: how a run of hours shows in Argo CD. It is Healthy when it has finished, and not before.
-- The conditions follow kstatus (Reconciling, Stalled); there is no Ready, so kstatus alone would call a run that is
-- still training Current. No library is used: Argo CD withholds string and math.

local function find(kind)
  for _, condition in ipairs(obj.status.conditions) do
    if condition.type == kind and condition.status == "True" then
      return condition
    end
  end
  return nil
end

local function say(status, condition)
  local message = condition.reason or ""
  if condition.message ~= nil and condition.message ~= "" then
    message = condition.message
  end
  return {status = status, message = message}
end

if obj.status == nil or obj.status.conditions == nil or obj.status.observedGeneration == nil then
  return {status = "Progressing", message = "Waiting for the operator"}
end
-- A suspended or resumed spec, or a raised run, that the operator has not seen yet: what the status says is of before.
if obj.metadata.generation ~= nil and obj.status.observedGeneration ~= obj.metadata.generation then
  return {status = "Progressing", message = "Waiting for the operator to see the change"}
end

local stalled = find("Stalled")
if stalled ~= nil then
  return say("Degraded", stalled)
end
local failed = find("Failed")
if failed ~= nil then
  return say("Degraded", failed)
end
local complete = find("Complete")
if complete ~= nil then
  return say("Healthy", complete)
end
local suspended = find("Suspended")
if suspended ~= nil then
  return say("Suspended", suspended)
end

-- What is missing may come with a later wave: as long as the operator waits for it, so does Argo CD.
local reconciling = find("Reconciling")
local accepted = find("Accepted")
if accepted == nil and reconciling == nil then
  for _, condition in ipairs(obj.status.conditions) do
    if condition.type == "Accepted" and condition.status == "False" then
      return say("Degraded", condition)
    end
  end
end

local running = find("Running")
if running ~= nil then
  local progress = obj.status.progress
  if progress ~= nil and progress.summary ~= nil then
    return {status = "Progressing", message = progress.summary}
  end
  return say("Progressing", running)
end
if reconciling ~= nil then
  return say("Progressing", reconciling)
end
for _, condition in ipairs(obj.status.conditions) do
  if condition.type == "Running" then
    return say("Progressing", condition)
  end
end
return {status = "Progressing", message = "Waiting for the operator"}
