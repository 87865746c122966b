-- Send each new radiograph to CXR Inbox, but not the results that come back from there.
function OnStoredInstance(id, tags, metadata, origin)
  local kinds = { CR = true, DX = true }
  if kinds[tags['Modality']] and tags['Manufacturer'] ~= 'CXR Inbox' then
    SendToModality(id, 'cxr')
  end
end
